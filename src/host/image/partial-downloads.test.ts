import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { PartialDownloads } from './partial-downloads.ts';

async function folderOf(context: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'lodge-partial-'));
  context.after(() => rm(folder, { recursive: true, force: true }));
  return join(folder, 'downloads');
}

/** Leaves an unfinished download of so many bytes and hours of age behind. */
async function breakOff(downloads: PartialDownloads, url: string, bytes: number, ageH: number): Promise<string> {
  const taken = await downloads.take(url);
  assert.ok(taken);
  await writeFile(`${taken.path}.part`, Buffer.alloc(bytes, 1));
  await writeFile(`${taken.path}.part.json`, '{}');
  const at = Date.now() / 1000 - ageH * 3600;
  await utimes(`${taken.path}.part`, at, at);
  await taken.release();
  return taken.path;
}

test('an address has one file, which one download at a time may write to', async (context) => {
  const downloads = new PartialDownloads(await folderOf(context));
  const first = await downloads.take('http://a/1');
  assert.ok(first);
  assert.equal(await downloads.take('http://a/1'), null);
  const other = await downloads.take('http://a/2');
  assert.notEqual(other?.path, first.path);
  await first.release();
  assert.equal((await downloads.take('http://a/1'))?.path, first.path);
});

test('what broke off is kept for a day, and not at all when it is done', async (context) => {
  const folder = await folderOf(context);
  const downloads = new PartialDownloads(folder);
  const old = await breakOff(downloads, 'http://a/old', 10, 25);
  const young = await breakOff(downloads, 'http://a/young', 10, 23);
  assert.ok(!existsSync(`${old}.part`) && !existsSync(`${old}.part.json`));
  assert.ok(existsSync(`${young}.part`) && existsSync(`${young}.part.json`));
  const taken = await downloads.take('http://a/young');
  assert.ok(taken);
  await rm(`${young}.part`);
  await taken.release();
  assert.ok(!existsSync(folder), 'nothing is left, not even the folder');
});

test('of too much, the newest is kept', async (context) => {
  const folder = await folderOf(context);
  const downloads = new PartialDownloads(folder, { keptBytes: 300_000 });
  const oldest = await breakOff(downloads, 'http://a/1', 100_000, 3);
  for (const [url, ageH] of [
    ['http://a/2', 2],
    ['http://a/3', 1],
    ['http://a/4', 0],
  ] as const)
    await breakOff(downloads, url, 90_000, ageH);
  const names = await readdir(folder);
  assert.equal(names.filter((name) => name.endsWith('.part')).length, 3);
  assert.ok(!existsSync(`${oldest}.part`));
});
