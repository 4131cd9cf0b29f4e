/** A TCP link that a test can freeze (half-open: nothing arrives, nobody is told) or cut. */
import { connect, createServer, type Server, type Socket } from 'node:net';

export class TcpProxy {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #frozen = false;

  private constructor(server: Server) {
    this.#server = server;
  }

  static start(targetPort: number): Promise<TcpProxy> {
    return new Promise((resolve, reject) => {
      const server = createServer((near) => {
        const far = connect(targetPort, '127.0.0.1');
        near.pipe(far).pipe(near);
        proxy.#hold(near, far);
      });
      const proxy = new TcpProxy(server);
      server.once('error', reject);
      server.listen(0, '127.0.0.1', () => resolve(proxy));
    });
  }

  get url(): string {
    const address = this.#server.address();
    return `http://127.0.0.1:${typeof address === 'object' && address ? address.port : 0}`;
  }

  /** What is sent from now on waits in the link. */
  freeze(): void {
    this.#frozen = true;
    for (const socket of this.#sockets) socket.pause();
  }

  /** What waited arrives. */
  resume(): void {
    this.#frozen = false;
    for (const socket of this.#sockets) socket.resume();
  }

  /** Ends every connection; new ones are taken. What waited is lost. */
  cut(): void {
    this.#frozen = false;
    for (const socket of this.#sockets) socket.destroy();
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.cut();
    await closed;
  }

  #hold(near: Socket, far: Socket): void {
    for (const socket of [near, far]) {
      this.#sockets.add(socket);
      if (this.#frozen) socket.pause();
      socket.on('error', () => undefined);
      socket.on('close', () => {
        this.#sockets.delete(socket);
        near.destroy();
        far.destroy();
      });
    }
  }
}
