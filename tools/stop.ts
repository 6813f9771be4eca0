// `npm stop`: ends the daemon of this machine. Guests run on, and the next `npm start` finds them again.
import { parseArgs } from 'node:util';
import { daemonPlace, stopDaemon } from './local-daemon.ts';
import { Steps } from './steps.ts';

const { values: options } = parseArgs({ options: { config: { type: 'string' } } });
const place = await daemonPlace(options.config);
await new Steps().step(
  'Ending the daemon',
  () => stopDaemon(place),
  (wasRunning) => (wasRunning ? 'The daemon has ended; guests run on' : 'No daemon was running'),
);
