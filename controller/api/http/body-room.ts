import { HelsError } from '../../../proto/domain/errors.ts';
import { limits } from '../../limits.ts';

/** What the bodies that are being received may hold together. One per server. */
export class BodyRoom {
  readonly #bytesMax: number;
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** For one body; close it when nothing of the body is held any more. */
  open(): BodyShare {
    let held = 0;
    return {
      grow: (size) => {
        // However many send long ones, a short request is heard.
        const more = Math.max(0, size - limits.httpShortBodyBytes) - held;
        if (this.#bytes + more > this.#bytesMax) {
          const message = `the requests that are being received have ${this.#bytesMax} bytes together already; try again`;
          throw new HelsError('overloaded', message);
        }
        held += more;
        this.#bytes += more;
      },
      close: () => {
        this.#bytes -= held;
        held = 0;
      },
    };
  }
}

export interface BodyShare {
  /** The body has `size` bytes now, never fewer than before; throws overloaded when there is no room for them. */
  grow(size: number): void;
  close(): void;
}
