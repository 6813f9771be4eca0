// Commands for a TPM 2.0 as bytes, for guests that have no tools for it, and the event log of a firmware.
// Trusted Platform Module Library, part 3 (commands) and part 2 (structures); TCG PC Client Platform Firmware Profile,
// section "Event logging".
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';

const withSessions = 0x8002;
const sha256 = 0x000b;
const owner = 0x4000_0001;
/** Whoever knows the index may write and read, without the lock-out that wrong passwords lead to. */
const nvAttributes = 0x0206_0006;

function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function sized(content: Buffer): Buffer {
  return Buffer.concat([u16(content.length), content]);
}

/** A command with handles, authorized by an empty password. */
function command(code: number, handles: readonly number[], parameters: readonly Buffer[]): Buffer {
  // TPM_RS_PW, no nonce, no attributes, no password.
  const session = Buffer.concat([u32(0x4000_0009), u16(0), Buffer.alloc(1), u16(0)]);
  const body = Buffer.concat([...handles.map(u32), u32(session.length), session, ...parameters]);
  return Buffer.concat([u16(withSessions), u32(10 + body.length), u32(code), body]);
}

/** TPM2_PCR_Extend: measures a SHA-256 digest into a register. */
export function pcrExtend(register: number, digest: Buffer): Buffer {
  return command(0x0182, [register], [u32(1), u16(sha256), digest]);
}

/** TPM2_NV_DefineSpace: makes room for bytes that are kept. */
export function nvDefine(index: number, size: number): Buffer {
  const space = Buffer.concat([u32(index), u16(sha256), u32(nvAttributes), u16(0), u16(size)]);
  return command(0x012a, [owner], [u16(0), sized(space)]);
}

/** TPM2_NV_Write, from the beginning. */
export function nvWrite(index: number, content: Buffer): Buffer {
  return command(0x0137, [index, index], [sized(content), u16(0)]);
}

/** TPM2_NV_Read, from the beginning. In the answer the bytes stand from 16 on. */
export function nvRead(index: number, size: number): Buffer {
  return command(0x014e, [index, index], [u16(size), u16(0)]);
}

/** Sizes of the digests in a log, by algorithm. */
type DigestSizes = ReadonlyMap<number, number>;

/** What the registers of the SHA-256 bank are if all that an event log says was measured into them, and nothing else. */
export function replayEventLog(log: Buffer): Map<number, Buffer> {
  const registers = new Map<number, Buffer>();
  // The first event has the old form (TCG_PCClientPCREvent), and says which algorithms the others have.
  const headerSize = log.readUInt32LE(28);
  const sizes = digestSizes(log.subarray(32, 32 + headerSize));
  for (let at = 32 + headerSize; at < log.length;) {
    const register = log.readUInt32LE(at);
    const type = log.readUInt32LE(at + 4);
    const count = log.readUInt32LE(at + 8);
    at += 12;
    for (let index = 0; index < count; index++) {
      const algorithm = log.readUInt16LE(at);
      const size = sizes.get(algorithm);
      assert.ok(size !== undefined, `the log has digests of an algorithm ${algorithm} that it did not announce`);
      // EV_NO_ACTION says something, and is measured into nothing.
      if (algorithm === sha256 && type !== 3) {
        const before = registers.get(register) ?? Buffer.alloc(size);
        const digest = log.subarray(at + 2, at + 2 + size);
        registers.set(register, createHash('sha256').update(before).update(digest).digest());
      }
      at += 2 + size;
    }
    at += 4 + log.readUInt32LE(at);
  }
  return registers;
}

function digestSizes(header: Buffer): DigestSizes {
  assert.equal(header.subarray(0, 15).toString('latin1'), 'Spec ID Event03');
  const count = header.readUInt32LE(24);
  return new Map(
    Array.from({ length: count }, (_, index) => [
      header.readUInt16LE(28 + 4 * index),
      header.readUInt16LE(30 + 4 * index),
    ]),
  );
}
