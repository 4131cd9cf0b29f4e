/** The public face of the client SDK. */
export { type ErrorCode, HelsError } from '../../proto/domain/errors.ts';
export { HelsClient, type HelsClientOptions } from './client.ts';
export type {
  CallOptions,
  ChatMessage,
  DeployEvent,
  DeployOptions,
  DrainEvent,
  GenerateEvent,
  GenerateInput,
  GenerateOptions,
  PlanReport,
  ProfileEvent,
  ProfileOptions,
  ProfileReport,
  ReplanEvent,
  ReplanOptions,
  Status,
} from './types.ts';
