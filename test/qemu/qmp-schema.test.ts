// Holds the tables of QMP commands and events to the installed QEMU. When this fails after an upgrade of QEMU, the
// message names what changed; the tables in src/drivers/qemu/qmp are to follow.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { QmpClient } from '../../src/drivers/qemu/qmp/client.ts';
import { command, event } from '../../src/drivers/qemu/qmp/command.ts';
import { commands } from '../../src/drivers/qemu/qmp/commands.ts';
import { events } from '../../src/drivers/qemu/qmp/events.ts';
import { checkTables } from '../../src/drivers/qemu/qmp/schema-check.ts';
import { QmpSchema } from '../../src/drivers/qemu/qmp/schema.ts';
import { enumeration, integer, object, string } from '../../src/drivers/qemu/qmp/shape.ts';
import { startBareQemu } from '../support/bare-qemu.ts';

test('the installed QEMU knows every command and event of the tables as they are described', async (context) => {
  const qemu = await startBareQemu(context);
  const client = await QmpClient.connect(qemu.qmpPath);
  context.after(() => client.close());
  const schema = new QmpSchema(await client.execute('query-qmp-schema'));

  const found = checkTables(schema, commands, events);
  assert.deepEqual(
    found.map(({ where, kind, message }) => `${where}: ${kind}: ${message}`),
    [],
    `QEMU ${client.greeting.version}`,
  );

  // The check looks at this QEMU for real: what is wrong on purpose is found in the same schema.
  const wrong = {
    'query-status': command({ speed: integer }, object({ running: string, status: enumeration('running') })),
    screendump: command({ format: string }),
    'no-such-command': command({}),
  };
  const kinds = new Set(checkTables(schema, wrong, { NO_SUCH_EVENT: event({}) }).map(({ kind }) => kind));
  assert.deepEqual([...kinds].sort(), ['mandatory', 'missing', 'type', 'unlisted']);

  assert.ok(schema.has('blockdev-add', 'driver.qcow2'));
  assert.ok(schema.has('migrate-set-capabilities', 'capabilities.capability.multifd'));
  assert.ok(schema.has('screendump', 'format.png'));
  assert.ok(!schema.has('blockdev-add', 'driver.no-such-driver'));
});
