// A guest of 86 bytes for tests of the serial console: a boot sector that prints numbered lines on COM1, eight
// hexadecimal digits each, without ever leaving one out: the first when it starts. A "g" makes it print the next one, an "f" makes it print without
// pause, and another "f" makes it stop.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { serialChardevArguments } from '../../src/drivers/qemu/serial/chardev.ts';
import { startBareQemu, type BareQemu } from './bare-qemu.ts';
import { type Cleanup } from './cleanup.ts';

const CODE = [
  // start:
  [0x66, 0x31, 0xdb], //            xor  ebx, ebx        the number of the next line
  [0x31, 0xed], //                  xor  bp, bp          whether it runs free
  [0xeb, 0x1b], //                  jmp  print           the first line shows that it runs
  // next:
  [0xba, 0xfd, 0x03], //            mov  dx, 0x3fd       line status register
  [0xec], //                        in   al, dx
  [0xa8, 0x01], //                  test al, 1           has something been received?
  [0x74, 0x0f], //                  jz   idle
  [0xba, 0xf8, 0x03], //            mov  dx, 0x3f8       data register
  [0xec], //                        in   al, dx
  [0x3c, 0x66], //                  cmp  al, 'f'
  [0x75, 0x03], //                  jne  not_free
  [0x83, 0xf5, 0x01], //            xor  bp, 1
  // not_free:
  [0x3c, 0x67], //                  cmp  al, 'g'
  [0x74, 0x04], //                  je   print
  // idle:
  [0x85, 0xed], //                  test bp, bp
  [0x74, 0xe5], //                  jz   next
  // print:
  [0xb9, 0x08, 0x00], //            mov  cx, 8
  [0x66, 0x89, 0xdf], //            mov  edi, ebx
  // digit:
  [0x66, 0xc1, 0xc7, 0x04], //      rol  edi, 4
  [0x66, 0x89, 0xf8], //            mov  eax, edi
  [0x24, 0x0f], //                  and  al, 15
  [0x3c, 0x0a], //                  cmp  al, 10
  [0x72, 0x02], //                  jb   decimal
  [0x04, 0x27], //                  add  al, 'a' - '0' - 10
  // decimal:
  [0x04, 0x30], //                  add  al, '0'
  [0xe8, 0x0b, 0x00], //            call put
  [0xe2, 0xea], //                  loop digit
  [0xb0, 0x0a], //                  mov  al, '\n'
  [0xe8, 0x04, 0x00], //            call put
  [0x66, 0x43], //                  inc  ebx
  [0xeb, 0xc0], //                  jmp  next
  // put:
  [0x50], //                        push ax
  [0xba, 0xfd, 0x03], //            mov  dx, 0x3fd
  // ready:
  [0xec], //                        in   al, dx
  [0xa8, 0x20], //                  test al, 0x20        may the next byte be sent?
  [0x74, 0xfb], //                  jz   ready
  [0x58], //                        pop  ax
  [0xba, 0xf8, 0x03], //            mov  dx, 0x3f8
  [0xee], //                        out  dx, al
  [0xc3], //                        ret
].flat();

export interface SerialGuest {
  readonly qemu: BareQemu;
  readonly socketPath: string;
  readonly logPath: string;
}

/** Starts the guest with its console as Lodge has it, or as it is where QEMU has no `hub`. */
export async function startSerialGuest(test: Cleanup, withHub = true): Promise<SerialGuest> {
  const sector = Buffer.alloc(1024 * 1024);
  Buffer.from(CODE).copy(sector);
  sector.writeUInt16LE(0xaa55, 510);
  const qemu = await startBareQemu(test, async (folder) => {
    await writeFile(join(folder, 'boot.img'), sector);
    const [socketPath, logPath] = [join(folder, 'serial.sock'), join(folder, 'serial.log')];
    return ['-M', 'q35', '-m', '16', '-accel', 'tcg'].concat(
      ['-drive', `file=${folder}/boot.img,format=raw,if=none,id=boot`, '-device', 'ide-hd,drive=boot'],
      serialChardevArguments('serial0', socketPath, logPath, new Set(withHub ? ['hub'] : [])),
      ['-device', 'isa-serial,chardev=serial0'],
    );
  });
  return { qemu, socketPath: join(qemu.folder, 'serial.sock'), logPath: join(qemu.folder, 'serial.log') };
}
