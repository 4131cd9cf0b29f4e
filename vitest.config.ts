import { defineConfig } from 'vitest/config';

// Threads inherit it: they run TypeScript source, which Node.js itself cannot.
const execArgv = [
  '--import',
  new URL('./test/support/typescript-loader.mjs', import.meta.url).href,
];
const common = { testTimeout: 20_000, hookTimeout: 120_000, execArgv };

export default defineConfig({
  test: {
    // Two cores: daemons and native engines inside the tests need them more than the runner does.
    maxWorkers: 2,
    projects: [
      {
        test: {
          ...common,
          name: 'parts',
          include: ['test/{unit,property,contract,golden,robustness,sim,commands}/**/*.test.ts'],
        },
      },
      {
        test: {
          ...common,
          name: 'daemons',
          include: ['test/daemons/**/*.test.ts'],
          // Each file starts a cluster of its own: one after the other, and not beside the rest.
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
