/**
 * Who goes before whom: in the order of arrival, where each level of priority counts as so many arrivals. So a lower value goes first, and
 * nobody waits for ever: after as many arrivals no later one of the better level goes before. Pure.
 */
import type { Sequence } from './sequence.ts';

export const arrivalsPerPriority = 1024;

const placeOf = ({ arrival, request }: Sequence) =>
  arrival + arrivalsPerPriority * (request.priority ?? 0);

/** Negative: `left` goes first. Zero for one and the same only. */
export function compareTurns(left: Sequence, right: Sequence): number {
  return placeOf(left) - placeOf(right) || left.arrival - right.arrival;
}

export function isBefore(left: Sequence, right: Sequence): boolean {
  return compareTurns(left, right) < 0;
}

/** Puts the sequence where it belongs in a list that is in order. */
export function insertInOrder(list: Sequence[], sequence: Sequence): void {
  list.splice(list.findLastIndex((other) => isBefore(other, sequence)) + 1, 0, sequence);
}
