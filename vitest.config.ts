import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/{unit,property,contract,golden,robustness,daemons,sim}/**/*.test.ts'],
    testTimeout: 20_000,
    hookTimeout: 120_000,
    // Two cores: daemons and native engines inside the tests need them more than the runner does.
    maxWorkers: 2,
  },
});
