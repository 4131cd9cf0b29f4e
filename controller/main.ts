#!/usr/bin/env node
/** The controller daemon: reads its configuration, wires the parts, listens, and drains on SIGTERM or SIGINT, or with what started it. */
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { CommanderError } from 'commander';
import { Registry } from 'prom-client';
import { type Clock, systemClock } from '../proto/base/clock.ts';
import { onLifelineEnd } from '../proto/base/lifeline.ts';
import { createLogger, type Logger } from '../proto/base/log.ts';
import { readServerCertificate, readTlsIdentity, type TlsIdentity } from '../proto/base/tls.ts';
import { version } from '../proto/base/version.ts';
import { exitCodeOf, HelsError, toHelsError } from '../proto/domain/errors.ts';
import { isLoopback, showHostPort } from '../proto/domain/host-port.ts';
import { channelCredentials, serverCredentials } from '../proto/rpc/credentials.ts';
import { systemChance } from './api/chance.ts';
import { GenerationService } from './api/generation-service.ts';
import { helsHandlers } from './api/grpc/hels-service.ts';
import { registryHandlers } from './api/grpc/registry-service.ts';
import { GrpcServer } from './api/grpc/server.ts';
import { loopbackHosts } from './api/http/access.ts';
import { Routes } from './api/http/routes.ts';
import { HttpServer, type HttpServerOptions } from './api/http/server.ts';
import { comingRequests, nextRequest } from './cluster/group.ts';
import { type ControllerConfig, parseControllerConfig, plaintextWarnings } from './config.ts';
import { AutoReplan } from './deployment/auto-replan.ts';
import { ClusterEvents } from './deployment/cluster-events.ts';
import { Coordinator } from './deployment/coordinator.ts';
import { DeploymentState } from './deployment/deployment-state.ts';
import { DrainService } from './deployment/drain-service.ts';
import { watchMembers } from './deployment/member-events.ts';
import { Newcomers } from './deployment/newcomers.ts';
import { type MakePlan, planThread } from './deployment/plan-thread.ts';
import { PredictionTracker } from './deployment/prediction-tracker.ts';
import { ProfileService } from './deployment/profile-service.ts';
import { ReplanLog } from './deployment/replan-log.ts';
import type { Proposing } from './deployment/replan-proposal.ts';
import { ReplanService } from './deployment/replan-service.ts';
import { modelIdOf } from './deployment/served-files.ts';
import { WorkerRegistry } from './deployment/worker-registry.ts';
import { SwitchingEngine } from './engine/generation-engine.ts';
import { openGroupWith } from './engine/open-group.ts';
import { ServingMetrics } from './metrics/serving-metrics.ts';
import { OperationsService } from './operations.ts';
import { StatusView } from './status.ts';
import { campaign, type Leadership } from './store/leadership.ts';
import { openStore } from './store/open-store.ts';
import type { Store } from './store/store.ts';

const tickIntervalMs = 250;
/** To whom the workers of the last leader have not turned by then, they are lost with it. */
const successionSettleMs = 30_000;
/** What running requests get to end by themselves after SIGTERM. */
const drainDeadlineMs = 8_000;

interface Controller {
  http: string;
  grpc: string;
  stop(): Promise<void>;
}

interface Operating {
  term: number;
  makePlan: MakePlan;
  coordinator: Coordinator;
  registry: WorkerRegistry;
  state: DeploymentState;
  view: StatusView;
  engine: SwitchingEngine;
  tracker: PredictionTracker;
  replans: ReplanLog;
  events: ClusterEvents;
  clock: Clock;
  log: Logger;
}

/** What people can ask for, and what the controller does by itself. */
async function operationsOf({ term, coordinator, registry, state, view, ...ports }: Operating) {
  const { makePlan, engine, tracker, replans, events, clock, log } = ports;
  const refine: Proposing['refine'] = (devices) => tracker.refine(devices);
  const replanner = new ReplanService({ coordinator, log: replans, refine, makePlan });
  const served = () => tracker.served();
  const looks = { served, lastTrouble: () => replans.trouble };
  const autoReplan = new AutoReplan({ coordinator, replanner, ...looks, clock, log });
  const newcomers = new Newcomers({
    ...{ coordinator, store: state, term, tracker, events, clock, log },
  });
  const drains = new DrainService({
    ...{ registry, coordinator, replanner, store: state, events, clock, log },
  });
  await drains.restore();
  const profiles = new ProfileService({ term, coordinator, store: state, clock });
  const operations = new OperationsService(coordinator, view, profiles, replanner, drains);
  const tick = () => {
    coordinator.tick();
    engine.tick(comingRequests(coordinator.group).map(modelIdOf));
    tracker.tick();
    drains.tick();
    newcomers.tick();
    autoReplan.tick();
  };
  return { operations, tick };
}

/** Of each port; null: plain text. */
interface Identities {
  http: HttpServerOptions['tls'];
  grpc: TlsIdentity | null;
}

interface Serving {
  config: ControllerConfig;
  tls: HttpServerOptions['tls'];
  generation: GenerationService;
  metrics: ServingMetrics;
  view: StatusView;
  clock: Clock;
  logger: Logger;
}

function httpServerOf({ config, tls, generation, metrics, view, clock, logger }: Serving) {
  const { host } = config.http;
  const access = {
    apiKey: config.apiKey,
    allowedHosts: isLoopback(host) ? loopbackHosts(host) : null,
    corsOrigins: config.corsOrigins,
  };
  const routes = new Routes({
    service: generation,
    metrics,
    readiness: () => view.readiness(),
    status: () => ({ status: view.status(), plan: view.planOrNull() }),
    access,
    clock,
  });
  return new HttpServer({ routes, access, tls, clock, chance: systemChance, logger });
}

async function startController(
  config: ControllerConfig,
  identities: Identities,
  store: Store,
  leadership: Leadership,
  log: Logger,
): Promise<Controller> {
  const clock = systemClock;
  const { term } = leadership;
  const events = new ClusterEvents(clock, log);
  const metrics: ServingMetrics = new ServingMetrics(new Registry(), () => view.gauges());
  const { workersLost } = metrics;
  const watch = watchMembers({ events, workersLost, version: version() });
  const registry = new WorkerRegistry(term, clock, log, watch);
  const engine = new SwitchingEngine(clock, (requests) => metrics.requestsResumed.inc(requests));
  const tracker = new PredictionTracker(clock, events, metrics);
  const state = new DeploymentState(store, leadership);
  const lastEpoch = await state.lastEpoch();
  const replans = new ReplanLog((...event) => events.tell(...event), metrics.replans);
  const plans = planThread();
  const makePlan: MakePlan = (request) => plans.run(request);
  const coordinator: Coordinator = new Coordinator({
    term,
    lastEpoch,
    registry,
    store: state,
    makePlan,
    openGroup: openGroupWith({ engine, metrics, tracker, events, clock, log }, () =>
      nextRequest(coordinator.group),
    ),
    replans,
    events,
    credentials: channelCredentials(identities.grpc),
    clock,
    log,
  });
  const view = new StatusView(term, registry, coordinator, engine, tracker, events, replans, clock);
  registry.connect(coordinator, (workerId) => engine.serving?.loop.outstanding(workerId) ?? false);
  const generation = new GenerationService({
    engine,
    servedModel: () => coordinator.servedModel,
    awaitReturn: (modelId, signal) => engine.awaitReturn(modelId, signal),
    metrics,
    clock,
    chance: systemChance,
  });

  const decided = { term, coordinator, registry, state, view, engine, tracker, replans, events };
  const { operations, tick } = await operationsOf({ ...decided, makePlan, clock, log });
  const grpcServer = new GrpcServer(
    helsHandlers(generation, operations, () => clock.nowMs()),
    registryHandlers(registry),
  );
  const http = { config, tls: identities.http, generation, metrics, view, clock, logger: log };
  const httpServer = httpServerOf(http);

  events.record('term', '', `this controller leads in term ${term}, version ${version()}`);
  // Before anybody can ask for another deployment, which is the newer wish.
  const request = (await state.loadDeployment()) ?? operations.configured(config.deployment);
  // What served is to serve on, as after a loss; a first start waits for all that it is to begin with.
  const servesOn = leadership.succeeds && lastEpoch > 0;
  const settleMs = servesOn ? successionSettleMs : Number.POSITIVE_INFINITY;
  if (request !== null) coordinator.restore(request, settleMs);

  const grpcPort = await grpcServer.listen(
    showHostPort(config.grpc),
    serverCredentials(identities.grpc),
  );
  const httpPort = await httpServer.listen(config.http.host, config.http.port);
  const ticker = setInterval(() => {
    registry.tick();
    tick();
  }, tickIntervalMs);
  return {
    http: showHostPort({ ...config.http, port: httpPort }),
    grpc: showHostPort({ ...config.grpc, port: grpcPort }),
    stop: async () => {
      const draining = new HelsError('draining', 'the controller is stopping');
      await Promise.all([engine.drain(drainDeadlineMs), httpServer.drain(drainDeadlineMs)]);
      clearInterval(ticker);
      await coordinator.close(draining);
      await Promise.all([grpcServer.close(1_000), httpServer.close()]);
    },
  };
}

async function run(): Promise<void> {
  const config = parseControllerConfig(process.argv.slice(2), version(), (file) =>
    readFileSync(file, 'utf8'),
  );
  const log = createLogger('controller', config.logLevel);
  const nowUnixMs = systemClock.unixMs();
  const identities: Identities = {
    http: config.httpTls && readServerCertificate(config.httpTls, nowUnixMs),
    grpc: config.tls && readTlsIdentity(config.tls, ['server', 'client'], nowUnixMs),
  };
  for (const warning of plaintextWarnings(config)) log.warn(warning);
  const store = openStore(config, systemClock);
  const stopping = new AbortController();
  let controller: Controller | null = null;
  let leadership: Leadership | null = null;
  const finish = async (exitCode: number) => {
    await controller?.stop();
    await leadership?.resign().catch(() => undefined);
    await store.close();
    process.exit(exitCode);
  };
  let signals = 0;
  const stop = (reason: string) => {
    if (stopping.signal.aborted) return;
    log.info('stopping', { reason });
    stopping.abort(new HelsError('draining', `stopped by ${reason}`));
    void finish(0);
  };
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => {
      signals += 1;
      if (signals > 1) process.exit(1);
      stop(signal);
    });
  }
  onLifelineEnd(() => stop('the end of what started it'));
  try {
    const name = `${hostname()}/${process.pid}`;
    leadership = await campaign(store, name, stopping.signal, (leader) =>
      log.info('another controller leads; waiting for its end', { leader }),
    );
    const { lost } = leadership;
    lost.addEventListener('abort', () => {
      if (stopping.signal.aborted) return;
      // Another one may lead already: what we would decide now could contradict it.
      const { message } = toHelsError(lost.reason);
      log.error('leadership lost; stopping', { error: message });
      process.exit(1);
    });
    controller = await startController(config, identities, store, leadership, log);
  } catch (error) {
    if (stopping.signal.aborted) return;
    // Giving the lease back is no loss of leadership, and the next controller need not wait for its end.
    stopping.abort(error);
    await leadership?.resign().catch(() => undefined);
    await store.close();
    throw error;
  }
  const { http, grpc } = controller;
  log.info('listening', { http, grpc, term: leadership.term, version: version() });
  process.stdout.write(`${JSON.stringify({ event: 'listening', http, grpc })}\n`);
}

try {
  await run();
} catch (error) {
  if (error instanceof CommanderError) process.exit(error.exitCode);
  const failure = toHelsError(error);
  process.stderr.write(`hels-controller: ${failure.message}\n`);
  process.exit(exitCodeOf[failure.code]);
}
