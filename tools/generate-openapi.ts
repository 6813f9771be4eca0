// Writes docs/openapi.json from the contract: node tools/generate-openapi.ts. A test compares the file with the contract.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openApiDocument } from '../src/api/openapi.ts';

const path = join(import.meta.dirname, '../docs/openapi.json');
await writeFile(path, `${JSON.stringify(openApiDocument(), null, 2)}\n`);
