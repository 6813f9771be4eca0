// Makes X.509 certificates: the authority's own, and those it signs (RFC 5280). Keys are EC P-256: every TLS client and
// browser takes them, which is not so for Ed25519. The library is loaded only when a certificate is made, which is once
// in two months: it would cost the daemon 20 MB and a tenth of a second at each start.
import './reflect-metadata.ts';
import { createPrivateKey, createPublicKey, KeyObject, webcrypto } from 'node:crypto';
import { isIP } from 'node:net';

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

/** A private key and its certificate, PEM. */
export interface KeyAndCertificate {
  key: string;
  cert: string;
}

export interface Validity {
  notBefore: Date;
  notAfter: Date;
}

/** A new authority, which may sign servers and clients but no further authority. */
export async function makeAuthority(commonName: string, validity: Validity): Promise<KeyAndCertificate> {
  const x509 = await import('@peculiar/x509');
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const { keyCertSign, cRLSign } = x509.KeyUsageFlags;
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: [{ CN: [commonName] }],
    ...validity,
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(keyCertSign | cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { key: keyPem(keys.privateKey), cert: pem(certificate.toString('pem')) };
}

/** A certificate for a server with these host names and addresses, signed by the authority, with a new key. */
export async function makeServerCertificate(
  authority: KeyAndCertificate,
  names: readonly string[],
  validity: Validity,
): Promise<KeyAndCertificate> {
  const x509 = await import('@peculiar/x509');
  const issuer = new x509.X509Certificate(authority.cert);
  const signingKey = await importKey(authority.key, ['sign']);
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.create({
    subject: [{ CN: [names[0]?.slice(0, 64) ?? 'lodge'] }],
    issuer: issuer.subjectName,
    ...validity,
    publicKey: keys.publicKey,
    signingKey,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
      new x509.SubjectAlternativeNameExtension(
        names.map((name) => ({ type: isIP(name) === 0 ? ('dns' as const) : ('ip' as const), value: name })),
      ),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(issuer),
    ],
  });
  return { key: keyPem(keys.privateKey), cert: pem(certificate.toString('pem')) };
}

function keyPem(key: webcrypto.CryptoKey): string {
  return KeyObject.from(key).export({ type: 'pkcs8', format: 'pem' }) as string;
}

function pem(text: string): string {
  return `${text.trim()}\n`;
}

async function importKey(key: string, usages: webcrypto.KeyUsage[]): Promise<webcrypto.CryptoKey> {
  const pkcs8 = createPrivateKey(key).export({ type: 'pkcs8', format: 'der' });
  return webcrypto.subtle.importKey('pkcs8', pkcs8, algorithm, false, usages);
}

/** Whether a private key belongs to a certificate's public key. */
export function isPair(key: string, publicKey: KeyObject): boolean {
  return createPublicKey(createPrivateKey(key)).equals(publicKey);
}
