/** A process of its own for the file store's tests: opens the directory given, writes a key, says so and stays until killed. */
import { FileStore } from '../../controller/store/file-store.ts';

const store = FileStore.open(process.argv[2] ?? '');
await store.transact([], [{ type: 'put', key: '/held', value: 'by another process' }]);
process.stdout.write('held\n');
setInterval(() => undefined, 1_000);
