/** Why a connection failed: gRPC.js gives every reason the same status and wraps it in words of its own. Pure. */
export interface ConnectionFailure {
  /** In OpenSSL's and the system's words. */
  reason: string;
  /** One end refused the other's certificate, or one of them has no TLS. */
  byTls: boolean;
}

/** `details` of a call that ended with UNAVAILABLE. */
export function connectionFailureOf(details: string): ConnectionFailure {
  const wrapped = details
    .replace(/^(14 UNAVAILABLE: )?No connection established\. Last error: (Error: )?/, '')
    .replace(/\s*(\(\d{4}-[^)]*Z\))?\. Resolution note:\s*$/, '');
  if (wrapped === 'undefined') return { reason: 'no connection', byTls: false };
  // Address:error:number:SSL routines:function:reason:file:line:data
  const reason = /:SSL routines:[^:]*:([^:]+):/.exec(wrapped)?.[1] ?? wrapped;
  const byTls = reason !== wrapped || /certificate|altname|EPROTO/i.test(reason);
  return { reason, byTls };
}
