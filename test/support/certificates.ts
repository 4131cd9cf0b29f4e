/** Certificates for tests: an authority of one's own, by openssl, in a directory of its own. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Certificate {
  /** PEM files. */
  authority: string;
  certificate: string;
  key: string;
}

export interface CertificateWishes {
  /** What it is valid for; default: localhost and 127.0.0.1. */
  names?: string;
  usages?: string;
  /** Default: from now for a day. */
  validity?: { fromDate: string; toDate: string };
}

const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

function openssl(directory: string, parameters: string[]): void {
  execFileSync('openssl', parameters, { cwd: directory, stdio: 'pipe' });
}

export class Authority {
  readonly directory = mkdtempSync(join(tmpdir(), 'hels-authority-'));
  readonly file = join(this.directory, 'ca.pem');
  #issued = 0;

  constructor() {
    const subject = ['-subj', '/CN=Hels test authority', '-days', '1'];
    const files = ['-keyout', 'ca.key', '-out', 'ca.pem'];
    openssl(this.directory, ['req', '-x509', ...newKey, ...subject, ...files]);
  }

  issue(name: string, wishes: CertificateWishes = {}): Certificate {
    this.#issued += 1;
    const file = (kind: string) => join(this.directory, `${name}-${this.#issued}.${kind}`);
    const [request, extensions] = [file('csr'), file('ext')];
    const issued = { authority: this.file, certificate: file('pem'), key: file('key') };
    const names = wishes.names ?? 'DNS:localhost,IP:127.0.0.1';
    const usages = wishes.usages ?? 'serverAuth,clientAuth';
    writeFileSync(extensions, `subjectAltName=${names}\nextendedKeyUsage=${usages}\n`);
    const subject = ['-subj', `/CN=${name}`];
    openssl(this.directory, [
      ...['req', '-new', ...newKey, ...subject, '-keyout', issued.key, '-out', request],
    ]);
    if (wishes.validity === undefined) {
      openssl(this.directory, [
        ...['x509', '-req', '-in', request, '-CA', 'ca.pem', '-CAkey', 'ca.key', '-days', '1'],
        ...['-CAcreateserial', '-extfile', extensions, '-out', issued.certificate],
      ]);
    } else this.#issueDated(request, extensions, issued.certificate, wishes.validity);
    return issued;
  }

  /** `openssl ca` takes dates, `openssl x509` of the versions around does not. */
  #issueDated(
    request: string,
    extensions: string,
    certificate: string,
    { fromDate, toDate }: { fromDate: string; toDate: string },
  ): void {
    writeFileSync(join(this.directory, 'index.txt'), '');
    writeFileSync(
      join(this.directory, 'ca.cnf'),
      '[ca]\ndefault_ca=own\n[own]\nnew_certs_dir=.\ndatabase=index.txt\nrand_serial=yes\ndefault_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n',
    );
    openssl(this.directory, [
      ...['ca', '-batch', '-config', 'ca.cnf', '-cert', 'ca.pem', '-keyfile', 'ca.key'],
      ...['-startdate', fromDate, '-enddate', toDate, '-in', request],
      ...['-extfile', extensions, '-notext', '-out', certificate],
    ]);
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** As the SDK takes them. */
export function readCertificate({ authority, certificate, key }: Certificate) {
  return {
    authority: readFileSync(authority),
    certificate: readFileSync(certificate),
    key: readFileSync(key),
  };
}

/** The options of a daemon and of helsctl. */
export function tlsOptions({ authority, certificate, key }: Certificate): string[] {
  return ['--tls-ca', authority, '--tls-cert', certificate, '--tls-key', key];
}
