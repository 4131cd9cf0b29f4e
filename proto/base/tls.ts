/** Mutual TLS between our own programs: which files, what they must hold. Both ends show a certificate of one private authority. */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { HelsError } from '../domain/errors.ts';

/** A file with the option or field that names it: where a mistake is to be corrected. */
export interface NamedFile {
  path: string;
  field: string;
}

export interface CertificateFiles {
  certificate: NamedFile;
  key: NamedFile;
}

/** PEM files. */
export interface TlsFiles extends CertificateFiles {
  authority: NamedFile;
}

/** PEM. The certificate may be followed by those between it and the authority. */
export interface TlsIdentity {
  authority: Buffer;
  certificate: Buffer;
  key: Buffer;
}

/** A setting as it was given, or not. */
export interface FileSetting {
  value: string | null;
  field: string;
}

function invalid({ field, path }: NamedFile, problem: string): HelsError {
  return new HelsError('config-invalid', `${field} is '${path}'; ${problem}`, { field });
}

/** The settings as files, null when none is given. Throws config-invalid naming the missing ones when only some are. */
export function allOrNone<Name extends string>(
  settings: Record<Name, FileSetting>,
): Record<Name, NamedFile> | null {
  const all: FileSetting[] = Object.values(settings);
  if (all.every(({ value }) => value === null)) return null;
  const missing = all.filter(({ value }) => value === null).map(({ field }) => field);
  if (missing.length > 0) {
    const together = all.map(({ field }) => field).join(', ');
    const verb = missing.length === 1 ? 'is' : 'are';
    const message = `${missing.join(' and ')} ${verb} missing; give ${together} together, or none of them`;
    throw new HelsError('config-invalid', message, { field: missing[0] ?? '' });
  }
  const files = Object.entries<FileSetting>(settings).map(([name, { value, field }]) => [
    name,
    { path: value ?? '', field },
  ]);
  return Object.fromEntries(files) as Record<Name, NamedFile>;
}

function read(file: NamedFile): Buffer {
  try {
    return readFileSync(file.path);
  } catch (error) {
    throw invalid(file, `it cannot be read: ${error instanceof Error ? error.message : error}`);
  }
}

const certificatePattern = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** In their order; at least one. */
function parseCertificates(file: NamedFile, pem: Buffer): [X509Certificate, ...X509Certificate[]] {
  try {
    const [first, ...rest] = (pem.toString('latin1').match(certificatePattern) ?? []).map(
      (text) => new X509Certificate(text),
    );
    if (first !== undefined) return [first, ...rest];
  } catch {
    // The same message as for a file without any.
  }
  throw invalid(file, 'it holds no certificate; write PEM, with BEGIN CERTIFICATE');
}

function checkDates(file: NamedFile, certificate: X509Certificate, nowUnixMs: number): void {
  const { validFrom, validTo } = certificate;
  if (nowUnixMs >= Date.parse(validFrom) && nowUnixMs < Date.parse(validTo)) return;
  const now = new Date(nowUnixMs).toISOString();
  throw invalid(file, `it is valid from ${validFrom} to ${validTo}, and now is ${now}; renew it`);
}

function checkKey({ certificate, key }: CertificateFiles, own: X509Certificate, pem: Buffer): void {
  let parsed: ReturnType<typeof createPrivateKey>;
  try {
    parsed = createPrivateKey(pem);
  } catch {
    throw invalid(key, 'it holds no private key; write PEM, with BEGIN PRIVATE KEY, not encrypted');
  }
  if (own.checkPrivateKey(parsed)) return;
  throw invalid(key, `it is not the key of ${certificate.field} '${certificate.path}'`);
}

/** A pair of PEM files that belong together; throws config-invalid naming field and file. */
export function readCertificate(files: CertificateFiles, nowUnixMs: number) {
  const certificate = read(files.certificate);
  const chain = parseCertificates(files.certificate, certificate);
  const key = read(files.key);
  checkDates(files.certificate, chain[0], nowUnixMs);
  checkKey(files, chain[0], key);
  return { certificate, key, chain };
}

/** PEM of one or more authorities; throws config-invalid naming field and file. */
export function readAuthority(file: NamedFile, nowUnixMs: number) {
  const authority = read(file);
  const certificates = parseCertificates(file, authority);
  checkDates(file, certificates[0], nowUnixMs);
  return { authority, certificates };
}

/** Extended key usages, by what the program does with its certificate. */
const usages = {
  client: { id: '1.3.6.1.5.5.7.3.2', name: 'clientAuth' },
  server: { id: '1.3.6.1.5.5.7.3.1', name: 'serverAuth' },
} as const;

function checkUsages(
  file: NamedFile,
  { keyUsage }: X509Certificate,
  roles: readonly (keyof typeof usages)[],
): void {
  // A certificate without the extension may be used for everything.
  const allowed: readonly string[] | undefined = keyUsage;
  for (const { id, name } of roles.map((role) => usages[role])) {
    if (allowed === undefined || allowed.includes(id)) continue;
    throw invalid(file, `its extended key usage lacks ${name}; sign one with it`);
  }
}

/** Of a server that asks nobody for a certificate. Throws config-invalid naming field, file and what is wrong. */
export function readServerCertificate(files: CertificateFiles, nowUnixMs: number) {
  const { certificate, key, chain } = readCertificate(files, nowUnixMs);
  checkUsages(files.certificate, chain[0], ['server']);
  return { certificate, key };
}

/** Reads and checks what can be known before anybody is called. Throws config-invalid naming field, file and what is wrong. */
export function readTlsIdentity(
  files: TlsFiles,
  roles: readonly (keyof typeof usages)[],
  nowUnixMs: number,
): TlsIdentity {
  const { authority, certificates } = readAuthority(files.authority, nowUnixMs);
  const { certificate, key, chain } = readCertificate(files, nowUnixMs);
  const [own, ...between] = chain;
  checkUsages(files.certificate, own, roles);
  const issued = [...between, ...certificates].some(
    (issuer) => own.checkIssued(issuer) && own.verify(issuer.publicKey),
  );
  if (!issued) {
    const { field, path } = files.authority;
    throw invalid(files.certificate, `no authority in ${field} '${path}' has signed it`);
  }
  return { authority, certificate, key };
}
