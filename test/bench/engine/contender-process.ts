/** The inside of a contender's process: answers one call at a time and ends with its parent. */

/** By name; each takes one JSON value and resolves to one. */
export type Methods = Readonly<Record<string, (parameters: never) => Promise<unknown>>>;

interface Call {
  id: number;
  method: string;
  parameters: unknown;
}

export function serveCalls(methods: Methods): void {
  process.on('disconnect', () => process.exit(0));
  process.on('message', ({ id, method, parameters }: Call) => {
    // Answered when the program has started.
    if (method === 'ping') return void process.send?.({ id, result: null, error: null });
    const body = methods[method];
    if (body === undefined) throw new Error(`there is no method ${method}`);
    body(parameters as never).then(
      (result) => process.send?.({ id, result: result ?? null, error: null }),
      (error: unknown) => {
        const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
        process.send?.({ id, result: null, error: message });
      },
    );
  });
}
