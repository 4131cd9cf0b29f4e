// The import rules of docs/architecture.md, as a check.
const pure = '^(controller/(planner|cluster|scheduler|simulator)|proto/domain)/';

module.exports = {
  forbidden: [
    {
      name: 'controller-and-worker-are-strangers',
      comment: 'they share proto/ and speak gRPC',
      severity: 'error',
      from: { path: '^controller/' },
      to: { path: '^worker/' },
    },
    {
      name: 'worker-and-controller-are-strangers',
      severity: 'error',
      from: { path: '^worker/' },
      to: { path: '^(controller|client)/' },
    },
    {
      name: 'pure-folders-do-no-io',
      comment: 'decisions take time and chance as arguments and return effects',
      severity: 'error',
      from: { path: pure },
      to: { dependencyTypes: ['core'] },
    },
    {
      name: 'pure-folders-import-only-pure-code',
      severity: 'error',
      from: { path: pure },
      to: { pathNot: [pure, 'node_modules/zod/'], dependencyTypesNot: ['core'] },
    },
    {
      name: 'domain-imports-only-domain',
      severity: 'error',
      from: { path: '^proto/domain/' },
      to: { pathNot: '^proto/domain/' },
    },
    {
      name: 'etcd-only-in-the-store',
      severity: 'error',
      from: { path: '^(controller|worker|client|proto)/', pathNot: '^controller/store/' },
      to: { path: 'node_modules/etcd3/' },
    },
    {
      name: 'grpc-only-at-the-edges',
      severity: 'error',
      from: {
        path: '^(controller|worker|client|proto)/',
        pathNot: '^(proto/(rpc|gen)|controller/(engine|deployment|api/grpc)|worker/daemon|client/sdk)/',
      },
      to: { path: 'node_modules/@grpc/' },
    },
    {
      name: 'client-uses-the-wire',
      comment: 'the SDK and the CLI share only the language of proto/',
      severity: 'error',
      from: { path: '^client/' },
      to: { path: '^(controller|worker)/' },
    },
    {
      name: 'helsctl-only-through-the-sdk',
      severity: 'error',
      from: { path: '^client/helsctl/' },
      to: { path: '^(client/sdk/(?!index)|proto/(rpc|gen))' },
    },
    {
      name: 'main-is-not-imported',
      severity: 'error',
      from: {},
      to: { path: '(^|/)main\\.ts$' },
    },
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true, viaOnly: { pathNot: '^proto/gen/' } } },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^dist/' },
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'types', 'node', 'default'] },
  },
};
