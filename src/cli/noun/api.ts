// lodge api: one request of the API as it is, with the credentials and the errors of this command line.
import { Command } from 'commander';
import { allRoutes } from '../../api/contract.ts';
import { LodgeError } from '../../api/errors.ts';
import { isSchema, type Route } from '../../api/route.ts';
import { closestWord } from '../../lib/closest-word.ts';
import { collected, verb, withDaemon } from '../command.ts';
import { readStdin } from '../confirm.ts';
import type { Session } from '../connect/session.ts';
import { usageError } from '../usage-error.ts';

interface ApiOptions {
  param?: string[];
  query?: string[];
  data?: string;
}

type AnyMethod = (input: object) => Promise<unknown>;

/** `lodge api`. */
export function apiCommand(): Command {
  return verb(new Command('lodge'), 'api [route]', 'Send one request of the API as it is', {
    description:
      'Send one request of the API as it is, and print the answer. A route is named as in the API reference (/docs of the daemon): vm.list. Without a route, all are listed.',
    examples: [
      ['lodge api', 'all routes'],
      ['lodge api vm.get --param vm=web1', 'read one VM'],
      ['lodge api vm.stop --param vm=web1 --data \'{"timeoutS": 5}\'', 'with a body'],
      ['lodge api event.stream --query kinds=vm', 'a stream, a JSON document a line'],
    ],
  })
    .option('--param <name=value>', 'parameter of the path; may be given several times', collected)
    .option('--query <name=value>', 'parameter of the query; may be given several times', collected)
    .option('--data <json>', 'body as JSON, or - to read it from stdin')
    .action(
      withDaemon<[id: string | undefined], ApiOptions>(async (session, options, id) => {
        const routes = allRoutes();
        if (id === undefined) {
          for (const one of routes) {
            session.terminal.line(
              `${one.id.padEnd(20)} ${one.route.method.padEnd(6)} ${one.route.path.padEnd(36)} ${one.route.summary}`,
            );
          }
          return;
        }
        const found = routes.find((one) => one.id === id);
        if (!found) {
          const near = closestWord(
            id,
            routes.map((one) => one.id),
          );
          throw usageError(`there is no route ${JSON.stringify(id.slice(0, 60))}`, {
            hint: near === null ? 'lodge api lists all routes.' : `Did you mean ${near}? lodge api lists all routes.`,
          });
        }
        const methods = session.client as unknown as Record<string, Record<string, AnyMethod>>;
        const method = methods[found.noun]?.[found.verb];
        if (!method) throw new LodgeError('internal', `the client has no method for ${id}`);
        const answer = await method({
          params: pairs(options.param),
          query: { ...projectOf(found.route, session), ...pairs(options.query) },
          ...(options.data === undefined ? {} : { body: await bodyOf(found.route, options.data) }),
        });
        await print(session, found.route, answer);
      }),
    );
}

/** The project goes along where a route takes one and something says which. */
function projectOf(route: Route, session: Session): Record<string, string> {
  const isAboutOne = route.path.includes('{') && route.query !== undefined;
  return isAboutOne ? { project: session.project } : {};
}

function pairs(words: readonly string[] | undefined): Record<string, string> {
  return Object.fromEntries(
    (words ?? []).map((word) => {
      const at = word.indexOf('=');
      if (at < 1) throw usageError(`${JSON.stringify(word.slice(0, 60))} is not name=value`);
      return [word.slice(0, at), word.slice(at + 1)];
    }),
  );
}

async function bodyOf(route: Route, data: string): Promise<unknown> {
  if (route.body === undefined) throw usageError('this route takes no body', { hint: 'Leave --data out.' });
  if (!isSchema(route.body)) return data === '-' ? process.stdin : new TextEncoder().encode(data);
  const text = data === '-' ? await readStdin(16 * 1024 * 1024, 'the body') : data;
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw usageError(`the body is not JSON: ${cause instanceof Error ? cause.message : ''}`);
  }
}

async function print(session: Session, route: Route, answer: unknown): Promise<void> {
  const { terminal } = session;
  if (isSchema(route.response)) terminal.line(JSON.stringify(answer, null, 2));
  else if (route.response.kind === 'events') {
    for await (const one of answer as AsyncIterable<unknown>) terminal.line(JSON.stringify(one));
  } else if (route.response.kind === 'bytes') {
    for await (const chunk of answer as AsyncIterable<Uint8Array>) terminal.raw(chunk);
  }
}
