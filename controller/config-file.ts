/** The text of the controller's configuration file -> its fields, each of a type and in a range that it may have. Pure. */
import { parse as parseYaml, YAMLParseError } from 'yaml';
import { z } from 'zod';
import { logLevels } from '../proto/base/log.ts';
import { HelsError } from '../proto/domain/errors.ts';
import { kvPolicies } from '../proto/domain/kv-policy.ts';
import { isModelId, modelIdAllowed } from '../proto/domain/model-id.ts';
import { planPolicies } from '../proto/domain/plan.ts';
import { quantizationOptions } from '../proto/domain/quantization.ts';
import { workersMinMax, workloadMax } from '../proto/domain/workload.ts';
import { issueText, nonEmptyText, wholeNumber } from './planner/checked-schema.ts';

const text = z.string({ error: 'must be a text' });
const flag = z.boolean({ error: 'must be true or false' });
const texts = z.array(text, { error: 'must be a list of texts' });

function oneOf<const Words extends readonly string[]>(words: Words) {
  return z.enum(words, { error: `must be one of ${words.join(', ')}` });
}

const deploymentSchema = z.strictObject({
  model: nonEmptyText,
  name: text.refine(isModelId, { error: `must have ${modelIdAllowed}` }).default(''),
  policy: oneOf(planPolicies).default('hels'),
  numerics: oneOf(['exact', 'fast']).default('exact'),
  quantization: oneOf(quantizationOptions).default('auto'),
  workers: wholeNumber(1, workersMinMax).default(1),
  sequences: wholeNumber(1, workloadMax.sequences).optional(),
  contextTokens: wholeNumber(1, workloadMax.contextTokens).optional(),
  prefillChunk: wholeNumber(1, workloadMax.prefillChunk).optional(),
  prefixCache: flag.default(true),
  allowRemoteKv: flag.default(false),
  autoReplan: flag.default(true),
  kvPolicy: oneOf(kvPolicies).default('evict'),
});

const fileSchema = z.strictObject({
  http: text.optional(),
  grpc: text.optional(),
  dataDir: nonEmptyText.optional(),
  etcd: texts.optional(),
  etcdCa: text.optional(),
  etcdCert: text.optional(),
  etcdKey: text.optional(),
  httpTlsCert: text.optional(),
  httpTlsKey: text.optional(),
  tlsCa: text.optional(),
  tlsCert: text.optional(),
  tlsKey: text.optional(),
  insecure: flag.optional(),
  logLevel: oneOf(logLevels).optional(),
  apiKey: text.optional(),
  corsOrigins: texts.optional(),
  deployment: deploymentSchema.optional(),
});

/** The names a configuration file may use; for the check of the reference page. */
export const configFileFields: readonly string[] = Object.keys(fileSchema.shape);
export const deploymentFields: readonly string[] = Object.keys(deploymentSchema.shape);

export type FileConfig = z.infer<typeof fileSchema>;
export type ConfiguredDeployment = z.infer<typeof deploymentSchema>;

/** Parses the YAML text of `file`; throws config-invalid naming file, field, value and what is allowed, of every mistake. */
export function parseConfigFile(yaml: string, file: string): FileConfig {
  let value: unknown;
  try {
    value = parseYaml(yaml) ?? {};
  } catch (error) {
    throw invalid(`${file} is not YAML: ${yamlProblem(error)}`);
  }
  const result = fileSchema.safeParse(value);
  if (result.success) return result.data;
  const problems = result.error.issues.map((issue) => describeIssue(value, issue));
  throw invalid(`${file}: ${problems.join('. ')}`);
}

const invalid = (message: string) =>
  new HelsError('config-invalid', message, { field: '--config' });

function yamlProblem(error: unknown): string {
  if (error instanceof YAMLParseError && error.code === 'MULTIPLE_DOCS') {
    return 'it has several documents; keep one, without a line of --- below it';
  }
  return error instanceof Error ? error.message : String(error);
}

function describeIssue(file: unknown, issue: z.core.$ZodIssue): string {
  const [field] = issue.path;
  if (issue.code === 'unrecognized_keys') {
    const schema = field === 'deployment' ? deploymentSchema : fileSchema;
    const known = Object.keys(schema.shape).join(', ');
    const keys = issue.keys.map((key) => `'${key}'`).join(', ');
    return `${field === undefined ? 'the file' : String(field)}: ${keys} is not known; the fields are ${known}`;
  }
  // The key itself stays out of the message.
  if (field === 'apiKey') return 'apiKey is not a text; it must be one: put it in quotes';
  return issueText(file, issue, 'the file');
}
