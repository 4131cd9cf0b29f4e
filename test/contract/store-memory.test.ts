import { MemoryStore } from '../../controller/store/memory-store.ts';
import { storeContract } from './store.contract.ts';

storeContract('memory', {
  open: async () => new MemoryStore(),
  reopen: null,
  openBeside: null,
  leaseRunsOut: null,
});
