import { HelsError } from '../../../proto/domain/errors.ts';
import { kvPolicies, kvPolicyOf } from '../../../proto/domain/kv-policy.ts';
import { isModelId, modelIdAllowed } from '../../../proto/domain/model-id.ts';
import { planPolicies } from '../../../proto/domain/plan.ts';
import { quantizationOptions } from '../../../proto/domain/quantization.ts';
import {
  type WorkloadField,
  workersMinMax,
  workloadFields,
  workloadMax,
} from '../../../proto/domain/workload.ts';
import type { DeployEvent } from '../../../proto/gen/hels/v1/DeployEvent.ts';
import type { DeployRequest__Output } from '../../../proto/gen/hels/v1/DeployRequest.ts';
import type { DrainRequest__Output } from '../../../proto/gen/hels/v1/DrainRequest.ts';
import type { GenerateEvent } from '../../../proto/gen/hels/v1/GenerateEvent.ts';
import type { GenerateRequest__Output } from '../../../proto/gen/hels/v1/GenerateRequest.ts';
import type { HelsHandlers } from '../../../proto/gen/hels/v1/Hels.ts';
import type { PlanningWorkload__Output } from '../../../proto/gen/hels/v1/PlanningWorkload.ts';
import type { PlanReport } from '../../../proto/gen/hels/v1/PlanReport.ts';
import type { ProfileWorkersEvent } from '../../../proto/gen/hels/v1/ProfileWorkersEvent.ts';
import type { ProfileWorkersRequest__Output } from '../../../proto/gen/hels/v1/ProfileWorkersRequest.ts';
import type { ReplanEvent } from '../../../proto/gen/hels/v1/ReplanEvent.ts';
import type { ReplanRequest__Output } from '../../../proto/gen/hels/v1/ReplanRequest.ts';
import type { Status } from '../../../proto/gen/hels/v1/Status.ts';
import { chatRoles, templateRole } from '../chat-roles.ts';
import type { TextInput, TextRequest } from '../generation-request.ts';
import type { GenerationService, TextEvent } from '../generation-service.ts';
import { startRequestDeadline } from '../request-deadline.ts';
import { streamHandler, unaryHandler } from './handlers.ts';

/** What the client API needs of the controller besides generation. */
export interface OperationsPort {
  deploy(request: DeployRequest__Output, signal: AbortSignal): AsyncIterable<DeployEvent>;
  undeploy(modelId: string): Promise<void>;
  replan(request: ReplanRequest__Output): AsyncIterable<ReplanEvent>;
  drain(request: DrainRequest__Output): AsyncIterable<ReplanEvent>;
  profileWorkers(
    request: ProfileWorkersRequest__Output,
    signal: AbortSignal,
  ): AsyncIterable<ProfileWorkersEvent>;
  status(): Status;
  plan(): PlanReport;
}

const quantizationWords: readonly string[] = quantizationOptions;

function inputOf(request: GenerateRequest__Output): TextInput {
  switch (request.input) {
    case 'prompt':
      return { type: 'text', text: request.prompt ?? '' };
    case 'promptTokenIds':
      return { type: 'tokens', tokenIds: request.promptTokenIds?.ids ?? [] };
    case 'messages':
      return {
        type: 'chat',
        messages: (request.messages?.messages ?? []).map(({ role, content }, index) => {
          const known = chatRoles.find((candidate) => candidate === role);
          if (known !== undefined) return { role: templateRole(known), content };
          throw new HelsError(
            'request-invalid',
            `messages[${index}].role: '${role.slice(0, 40)}' is not one of ${chatRoles.join(', ')}`,
            { field: `messages[${index}].role` },
          );
        }),
      };
    default:
      throw new HelsError(
        'request-invalid',
        'input is missing; give one of prompt, prompt_token_ids and messages',
        { field: 'input' },
      );
  }
}

/** The wire's zero values mean "not given"; the generation service checks the ranges. */
function textRequestOf(request: GenerateRequest__Output): TextRequest {
  const { sampling, resume } = request;
  return {
    model: request.model === '' ? null : request.model,
    input: inputOf(request),
    temperature: sampling?.temperature ?? 0,
    topP: sampling === null || sampling.topP === 0 ? 1 : sampling.topP,
    topK: sampling?.topK ?? 0,
    logprobs: sampling?.logprobs ?? -1,
    seed: request.seedGiven ? (sampling?.seed ?? 0) : null,
    maxTokens: request.maxTokens === 0 ? null : request.maxTokens,
    minTokens: request.minTokens,
    stop: request.stop,
    stopTokenIds: request.stopTokenIds,
    ignoreEndOfText: request.ignoreEndOfText,
    resume: resume === null ? null : { tokenIds: resume.tokenIds, seed: resume.seed },
    cacheSalt: request.cacheSalt === '' ? null : request.cacheSalt,
    prefixCache: !request.noPrefixCache,
    priority: request.priority,
  };
}

function generateEventOf(event: TextEvent): GenerateEvent {
  switch (event.type) {
    case 'started':
      return { started: { ...event, promptTokenIds: [...event.promptTokenIds] } };
    case 'delta':
      return { delta: event };
    case 'finished':
      return { finished: event };
  }
}

function refuse(field: string, value: string, allowed: string): never {
  throw new HelsError('request-invalid', `${field}: '${value}' is not ${allowed}`, { field });
}

function checkPolicy(policy: string): void {
  const policies: readonly string[] = planPolicies;
  if (policy === '' || policies.includes(policy)) return;
  refuse('policy', policy, `one of ${planPolicies.join(', ')}`);
}

const wireNames: Record<WorkloadField, string> = {
  sequences: 'workload.sequences',
  contextTokens: 'workload.context_tokens',
  prefillChunk: 'workload.prefill_chunk',
  outputTokens: 'workload.output_tokens',
};

/** Zeroes mean that nobody says. */
function checkWorkload(workload: PlanningWorkload__Output | null): void {
  for (const field of workloadFields) {
    const value = workload?.[field] ?? 0;
    if (value <= workloadMax[field]) continue;
    refuse(wireNames[field], `${value}`, `a whole number from 1 to ${workloadMax[field]}`);
  }
}

function checkDeployRequest(request: DeployRequest__Output): void {
  if (request.modelPath === '') refuse('model_path', '', 'a model directory');
  checkPolicy(request.policy);
  checkWorkload(request.workload);
  if (!['', 'exact', 'fast'].includes(request.numerics)) {
    refuse('numerics', request.numerics, 'exact or fast');
  }
  if (request.quantization !== '' && !quantizationWords.includes(request.quantization)) {
    refuse('quantization', request.quantization, `one of ${quantizationWords.join(', ')}`);
  }
  if (kvPolicyOf(request.kvPolicy) === null) {
    refuse('kv_policy', request.kvPolicy, `one of ${kvPolicies.join(', ')}`);
  }
  if (!isModelId(request.modelId)) {
    refuse('model_id', request.modelId.slice(0, 140), modelIdAllowed);
  }
  if (request.workersMin > workersMinMax) {
    refuse('workers_min', `${request.workersMin}`, `a whole number from 1 to ${workersMinMax}`);
  }
  refusePolicyBesideRanks(request);
}

function refusePolicyBesideRanks({
  policy,
  ranks,
}: Pick<ReplanRequest__Output, 'policy' | 'ranks'>) {
  if (policy === '' || ranks.length === 0) return;
  throw new HelsError('request-invalid', 'ranks: a policy is given too; give one of the two', {
    field: 'ranks',
  });
}

export function helsHandlers(
  generation: GenerationService,
  operations: OperationsPort,
  nowMs: () => number,
): HelsHandlers {
  return {
    Generate: streamHandler<GenerateRequest__Output, GenerateEvent>(
      async function* (request, signal) {
        const late = new AbortController();
        const context = { arrivalMs: nowMs(), signal: AbortSignal.any([signal, late.signal]) };
        const deadline = startRequestDeadline(late);
        try {
          const events = generation.generate(textRequestOf(request), context);
          for await (const event of events) yield generateEventOf(event);
        } finally {
          clearTimeout(deadline);
        }
      },
    ),
    Deploy: streamHandler<DeployRequest__Output, DeployEvent>((request, signal) => {
      checkDeployRequest(request);
      return operations.deploy(request, signal);
    }),
    Replan: streamHandler<ReplanRequest__Output, ReplanEvent>((request) => {
      checkPolicy(request.policy);
      refusePolicyBesideRanks(request);
      checkWorkload(request.workload);
      return operations.replan(request);
    }),
    Drain: streamHandler<DrainRequest__Output, ReplanEvent>((request) => {
      if (request.workerId === '') refuse('worker_id', '', 'the name of a worker');
      return operations.drain(request);
    }),
    Undeploy: unaryHandler(async ({ modelId }) => {
      await operations.undeploy(modelId);
      return {};
    }),
    ProfileWorkers: streamHandler<ProfileWorkersRequest__Output, ProfileWorkersEvent>(
      (request, signal) => operations.profileWorkers(request, signal),
    ),
    GetStatus: unaryHandler(() => operations.status()),
    GetPlan: unaryHandler(() => operations.plan()),
  };
}
