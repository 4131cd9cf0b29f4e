import { expect, it } from 'vitest';
import { HelsService } from '../../../proto/rpc/definitions.ts';

const { Replan } = HelsService.service;
const overTheWire = (workload: { sequences?: number; allowRemoteKv?: boolean }) =>
  Replan.requestDeserialize(Replan.requestSerialize({ policy: '', workload, ranks: [] })).workload;

it('tells a wish for KV beside its heads from no wish', () => {
  expect(overTheWire({ allowRemoteKv: false })).toMatchObject({ allowRemoteKv: false });
  expect(overTheWire({ allowRemoteKv: true })).toMatchObject({ allowRemoteKv: true });
  expect(overTheWire({ sequences: 3 })).not.toHaveProperty('allowRemoteKv');
});
