/**
 * Refuses a request of very many fields before it is decoded. Within the bytes that the longest text may have there is room for millions of
 * empty messages, each of which becomes two objects: seconds in which nothing else is done here.
 */
import type * as grpc from '@grpc/grpc-js';
import { limits } from '../../limits.ts';

/** GenerateRequest.messages: the one field of any request with a list of messages within. */
const chat = { path: '/hels.v1.Hels/Generate', field: 4 };

/**
 * Fields at the top of a message, and of those within its field `nested`; counting ends beyond `max`. What is no message at all is left to
 * whoever decodes it.
 */
export function countFields(bytes: Uint8Array, nested: number | null, max: number): number {
  let at = 0;
  let count = 0;
  /** Its 28 low bits: more than any length here has. */
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; at < bytes.length; shift += 7) {
      const byte = bytes[at] as number;
      at += 1;
      if (shift < 28) value |= (byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    return value;
  };
  while (at < bytes.length && count <= max) {
    const tag = varint();
    count += 1;
    const wireType = tag & 7;
    if (wireType === 0) varint();
    else if (wireType === 1) at += 8;
    else if (wireType === 5) at += 4;
    else if (wireType === 2) {
      const end = varint() + at;
      if (tag >>> 3 === nested) count += countFields(bytes.subarray(at, end), null, max - count);
      at = end;
    }
  }
  return count;
}

/** The same service, whose requests are counted first. gRPC answers one that is refused as it does one that cannot be decoded. */
export function boundedRequests<Service extends grpc.ServiceDefinition>(service: Service): Service {
  const max = limits.grpcMessageFieldsMax;
  const methods = Object.entries(service).map(([name, method]) => {
    const nested = method.path === chat.path ? chat.field : null;
    const requestDeserialize = (bytes: Buffer) => {
      if (countFields(bytes, nested, max) > max) throw new Error(`more than ${max} fields`);
      return method.requestDeserialize(bytes);
    };
    return [name, { ...method, requestDeserialize }];
  });
  return Object.fromEntries(methods) as Service;
}
