/** Hosts of a test network: network namespaces on one bridge, which lies in a namespace of its own so that the machine's network stays as it is. */
import { execFileSync } from 'node:child_process';

export interface TestHost {
  namespace: string;
  address: string;
}

export interface TestNetwork {
  hosts: TestHost[];
  /** Ends what still runs in the namespaces, and removes them. */
  remove(): void;
}

const ip = (...parameters: string[]) => execFileSync('ip', parameters, { encoding: 'utf8' });

/** Why this process cannot make a network; null when it can. */
export function networkRefusal(): string | null {
  if (process.getuid?.() !== 0) return 'only root may make network namespaces';
  const probe = `hels-${process.pid}-probe`;
  try {
    ip('netns', 'add', probe);
    ip('netns', 'delete', probe);
    return null;
  } catch (error) {
    return `ip netns does not work here: ${String(error)}`;
  }
}

export function createTestNetwork(count: number): TestNetwork {
  const name = `hels-${process.pid}`;
  const bridge = `${name}-bridge`;
  const hosts = Array.from({ length: count }, (_, index) => ({
    namespace: `${name}-${index}`,
    address: `10.98.7.${index + 1}`,
  }));
  const namespaces = [bridge, ...hosts.map(({ namespace }) => namespace)];
  const remove = () => {
    for (const namespace of namespaces) {
      try {
        for (const id of ip('netns', 'pids', namespace).split('\n').filter(Boolean)) {
          process.kill(Number(id), 'SIGKILL');
        }
        ip('netns', 'delete', namespace);
      } catch {
        // Not made, or its last process has just ended.
      }
    }
  };
  try {
    for (const namespace of namespaces) ip('netns', 'add', namespace);
    ip('-n', bridge, 'link', 'add', 'bridge0', 'type', 'bridge');
    ip('-n', bridge, 'link', 'set', 'bridge0', 'up');
    hosts.forEach(({ namespace, address }, index) => {
      const port = `port${index}`;
      const pair = ['type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace];
      ip('-n', bridge, 'link', 'add', port, ...pair);
      ip('-n', bridge, 'link', 'set', port, 'master', 'bridge0', 'up');
      ip('-n', namespace, 'address', 'add', `${address}/24`, 'dev', 'eth0');
      ip('-n', namespace, 'link', 'set', 'eth0', 'up');
    });
  } catch (error) {
    remove();
    throw error;
  }
  return { hosts, remove };
}
