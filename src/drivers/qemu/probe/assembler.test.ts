// The assembler against encodings that GNU binutils gives for the same text, and its labels and refusals.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addressOf, Assembler, formatListing } from './assembler.ts';

function encode(write: (code: Assembler) => void): string {
  const code = new Assembler(0x10000);
  write(code);
  return Buffer.from(code.assemble().bytes).toString('hex');
}

test('instructions have the bytes that GNU as gives them', () => {
  const expected: [string, (code: Assembler) => void][] = [
    ['48b8efcdab8967452301', (code) => code.movImm64('rax', 0x0123456789abcdefn)],
    ['49bf0000000080ffffff', (code) => code.movImm64('r15', 0xffffff8000000000n)],
    ['bc00d00000', (code) => code.movImm32('rsp', 0xd000)],
    ['41b802000000', (code) => code.movImm32('r8', 2)],
    ['b8ffffffff', (code) => code.movImm32('rax', 0xffffffff)],
    ['4889e3', (code) => code.mov('rbx', 'rsp')],
    ['4d89f8', (code) => code.mov('r8', 'r15')],
    ['4c8ba600000000', (code) => code.load('r12', 'rsi')],
    ['488ba020000000', (code) => code.load('rsp', 'rax', 0x20)],
    ['48898708100000', (code) => code.store('rdi', 0x1008, 'rax')],
    ['8bae90030000', (code) => code.load32('rbp', 'rsi', 0x390)],
    ['898680030000', (code) => code.store32('rsi', 0x380, 'rax')],
    ['448b8e00000000', (code) => code.load32('r9', 'rsi')],
    ['4901c7', (code) => code.arithmetic('add', 'r15', 'rax')],
    ['4829d8', (code) => code.arithmetic('sub', 'rax', 'rbx')],
    ['4831d2', (code) => code.arithmetic('xor', 'rdx', 'rdx')],
    ['4839c3', (code) => code.arithmetic('cmp', 'rbx', 'rax')],
    ['4881c308000000', (code) => code.arithmeticImm('add', 'rbx', 8)],
    ['4881e0feffffff', (code) => code.arithmeticImm('and', 'rax', -2)],
    ['4981fe40000000', (code) => code.arithmeticImm('cmp', 'r14', 0x40)],
    ['48c1e220', (code) => code.shift('shl', 'rdx', 32)],
    ['49c1e808', (code) => code.shift('shr', 'r8', 8)],
    ['48ffc0', (code) => code.step('inc', 'rax')],
    ['49ffc8', (code) => code.step('dec', 'r8')],
    ['5053415c5b', (code) => (code.push('rax'), code.push('rbx'), code.pop('r12'), code.pop('rbx'))],
    ['41ffd4', (code) => code.callRegister('r12')],
    ['ffd0', (code) => code.callRegister('rax')],
    ['0f20d0', (code) => code.readControl('rax', 2)],
    ['0f22d8', (code) => code.writeControl(3, 'rax')],
    ['0f013e', (code) => code.invalidatePage('rsi')],
    ['0f0118', (code) => code.loadInterruptTable('rax')],
    ['0f0110', (code) => code.loadDescriptorTable('rax')],
    ['0fa2', (code) => code.plain('cpuid')],
    ['48cf', (code) => code.plain('iretq')],
    ['480f07', (code) => code.plain('sysretq')],
    ['f3a4', (code) => code.plain('rep movsb')],
  ];
  for (const [bytes, write] of expected) assert.equal(encode(write), bytes);
});

test('jumps and calls count from the end of their own bytes, forwards and backwards', () => {
  const code = new Assembler(0);
  code.label('back');
  code.plain('nop');
  code.jumpIf('nz', 'back');
  code.jump('ahead');
  code.call('back');
  code.plain('nop');
  code.label('ahead');
  // nop; jnz -7; jmp +6; call -17; nop
  assert.equal(Buffer.from(code.assemble().bytes).toString('hex'), '900f85f9ffffffe906000000e8efffffff90');
});

test('the address of a label counts from the origin, and may be shifted to where it is also mapped', () => {
  const code = new Assembler(0x10000);
  code.plain('nop');
  code.label('here');
  code.movImm32('rax', addressOf('here'));
  code.movImm64('rbx', addressOf('here', 0xffffffff81000000n));
  assert.equal(Buffer.from(code.assemble().bytes).toString('hex'), '90b80100010048bb01000181ffffffff');
});

test('a label that is missing, doubled or too far is an error', () => {
  const missing = new Assembler(0);
  missing.jump('nowhere');
  assert.throws(() => missing.assemble(), /the label nowhere is not defined/);
  const doubled = new Assembler(0);
  doubled.label('twice');
  assert.throws(() => doubled.label('twice'), /the label twice is defined twice/);
  const far = new Assembler(0x10000);
  far.label('start');
  far.rawTo('dw start', [], 2, addressOf('start'));
  assert.throws(() => far.assemble(), /start \(0x10000\) does not fit into 2 bytes/);
  const short = new Assembler(0);
  short.rawTo('jmp short end', [0xeb], 1, addressOf('end'), true);
  short.padTo(0x100);
  short.label('end');
  assert.throws(() => short.assemble(), /does not fit into 1 bytes/);
});

test('base registers whose encoding is not known are refused, and code can not grow over its place', () => {
  const code = new Assembler(0);
  assert.throws(() => code.load('rax', 'rsp'), /rsp can't be a base register/);
  assert.throws(() => code.store('r12', 0, 'rax'), /r12 can't be a base register/);
  assert.throws(() => code.invalidatePage('rbp'), /rbp can't be a base register/);
  code.padTo(4);
  assert.equal(code.offset, 4);
  assert.throws(() => code.padTo(3), /1 bytes too long/);
});

test('the listing shows address, bytes and text of every line', () => {
  const code = new Assembler(0x100);
  code.comment('what it does');
  code.label('start');
  code.movImm32('rax', 5);
  code.jump('start');
  assert.equal(
    formatListing(code.assemble().listing, 0x100),
    `                                        ; what it does
start:
00000100  b805000000                  mov eax, 0x5
00000105  e9f6ffffff                  jmp start
`,
  );
});
