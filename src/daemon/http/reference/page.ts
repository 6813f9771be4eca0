// The contract as a page to read, served at /docs. It is made from the OpenAPI document, so that both say the same. It
// needs no script to be read; search.js only filters what is there.
import { errorCodes } from '../../../api/errors.ts';
import { permissions, roleAllows } from '../../../api/permission.ts';
import { openApiDocument, type Json } from '../../../api/openapi.ts';
import { inline, markup, prose, type Markup } from './markup.ts';
import { fieldList, reachable, schemaLink, schemaView, type FieldView, type JsonObject } from './schema-view.ts';

interface Operation {
  id: string;
  method: string;
  path: string;
  tag: string;
  data: JsonObject;
}

interface Components {
  schemas: Record<string, JsonObject>;
  responses: Record<string, JsonObject>;
}

/** The page's text. It is the same for every request. */
export function referencePage(): string {
  const document = openApiDocument();
  const operations = operationsOf(document);
  const tags = document['tags'] as { name: string; description: string }[];
  const components = document['components'] as unknown as Components;
  const sent = reachable(
    operations.map(({ data }) => data['requestBody'] ?? null),
    components.schemas,
  );
  const info = document['info'] as { description: string };
  const of = (tag: string): Operation[] => operations.filter((operation) => operation.tag === tag);
  const page = markup`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <title>Lodge API reference</title>
        <link rel="icon" href="/docs/icon.svg" />
        <link rel="stylesheet" href="/docs/reference.css" />
        <script src="/docs/search.js" defer></script>
      </head>
      <body>
        <a class="skip" href="#main">Skip to content</a>
        <header class="bar">
          <a class="brand" href="#top"
            ><span class="mark" aria-hidden="true"></span>Lodge <span class="sub">API reference</span></a
          >
          <div class="search" role="search">
            <input
              id="search"
              type="search"
              placeholder="Search operations"
              aria-label="Search operations"
              autocomplete="off"
              spellcheck="false"
              hidden
            /><kbd hidden>/</kbd>
          </div>
          <a class="raw" href="/openapi.json">openapi.json</a>
        </header>
        <div class="columns">
          <nav aria-label="Operations">
            <details class="menu" open>
              <summary>Operations</summary>
              <ul>
                <li><a href="#top">Overview</a></li>
                ${tags.map(
                  (tag) =>
                    markup`<li class="group">
                      <a href="#${anchor(tag.name)}">${tag.name}</a>
                      <ul>
                        ${of(tag.name).map(
                          (operation) =>
                            markup`<li data-for="${operation.id}">
                              <a href="#${operation.id}"
                                ><span class="method ${operation.method}">${shortMethod(operation.method)}</span
                                ><span class="label">${summaryOf(operation)}</span></a
                              >
                            </li>`,
                        )}
                      </ul>
                    </li>`,
                )}
                <li class="group"><a href="#errors">errors</a></li>
                <li class="group"><a href="#permissions">permissions</a></li>
                <li class="group"><a href="#schemas">schemas</a></li>
              </ul>
            </details>
          </nav>
          <main id="main">
            <section id="top" class="intro">
              <h1>Lodge API</h1>
              ${prose(info.description)}
              <p>
                This page is made from <a href="/openapi.json">openapi.json</a> (OpenAPI 3.1). On the daemon’s machine:
              </p>
              <pre><code>curl --unix-socket /run/lodge/lodge.sock http://lodge/v1/server</code></pre>
            </section>
            <p id="nothing" class="nothing" role="status" hidden></p>
            ${tags.map(
              (tag) =>
                markup`<section class="tag" id="${anchor(tag.name)}">
                  <h2>${tag.name}</h2>
                  <p class="lead">${inline(tag.description)}</p>
                  ${of(tag.name).map((operation) => operationView(operation, components))}
                </section>`,
            )}
            ${errorTable()} ${permissionTable(operations)}
            <section class="static" id="schemas">
              <h2>schemas</h2>
              ${Object.entries(components.schemas).map(
                ([name, schema]) =>
                  markup`<article class="schema" id="schema-${name}">
                    <h3>${schemaLink(name)}</h3>
                    ${
                      typeof schema['description'] === 'string' ? markup`<p>${inline(schema['description'])}</p>` : null
                    }${schemaView(schema, sent.has(name) ? 'sent' : 'answered')}
                  </article>`,
              )}
            </section>
          </main>
        </div>
      </body>
    </html> `;
  return page.text;
}

function operationsOf(document: JsonObject): Operation[] {
  return Object.entries(document['paths'] as Record<string, Record<string, JsonObject>>).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, data]) => ({
      id: data['operationId'] as string,
      method,
      path,
      tag: (data['tags'] as string[])[0] ?? '',
      data,
    })),
  );
}

function textOf(value: Json | undefined): string {
  return typeof value === 'string' ? value : '';
}

function anchor(tag: string): string {
  return `tag-${tag.replaceAll(' ', '-')}`;
}

function shortMethod(method: string): string {
  return method === 'delete' ? 'DEL' : method.toUpperCase();
}

function summaryOf(operation: Operation): string {
  return operation.data['summary'] as string;
}

function operationView(operation: Operation, components: Components): Markup {
  const { data, id, method, path } = operation;
  const permission = data['x-permission'] as string;
  const words = `${id} ${method} ${path} ${summaryOf(operation)} ${permission} ${operation.tag}`.toLowerCase();
  return markup`<article class="operation" id="${id}" data-words="${words}">
    <h3><a class="title" href="#${id}">${summaryOf(operation)}</a></h3>
    <p class="route">
      <span class="method ${method}">${method.toUpperCase()}</span> <code class="path">${pathView(path)}</code>
    </p>
    <p class="facts">
      <span class="chip"
        >${permission === 'public' ? 'needs no permission' : markup`permission <a href="#permissions"><code>${permission}</code></a>`}</span
      >
      <span class="chip">operation <code>${id}</code></span>
    </p>
    ${typeof data['description'] === 'string' ? prose(data['description']) : null} ${parametersView(data)}
    ${bodyView(data, components)} ${answersView(data, components)} ${exampleView(operation)}
  </article>`;
}

/** The path with its parameters set apart, and with places where it may break. */
function pathView(path: string): Markup[] {
  return path.split(/(\{\w+\}|\/)/).map((part) => {
    if (part === '/') return markup`<wbr />/`;
    return part.startsWith('{') ? markup`<span class="param">${part}</span>` : markup`${part}`;
  });
}

function parametersView(data: JsonObject): Markup | null {
  const parameters = (data['parameters'] ?? []) as {
    name: string;
    in: string;
    required: boolean;
    description?: string;
    schema: JsonObject;
  }[];
  const groups = [
    ['path', 'In the path'],
    ['query', 'In the query'],
    ['header', 'In headers'],
  ] as const;
  const shown = groups.flatMap(([place, title]) => {
    const fields: FieldView[] = parameters
      .filter((parameter) => parameter.in === place)
      .map(({ name, required, description, schema }) => ({
        name,
        schema,
        // All of a path is needed: saying so at each would be noise.
        isRequired: required && place !== 'path',
        ...(description === undefined ? {} : { description }),
      }));
    return fields.length === 0
      ? []
      : [
          markup`<h4>${title}</h4>
            ${fieldList(fields, 'sent')}`,
        ];
  });
  return shown.length === 0 ? null : markup`${shown}`;
}

function contentOf(holder: JsonObject): { mediaType: string; schema: JsonObject } | null {
  const [entry] = Object.entries((holder['content'] ?? {}) as Record<string, { schema: JsonObject }>);
  return entry === undefined ? null : { mediaType: entry[0], schema: entry[1].schema };
}

function bodyView(data: JsonObject, components: Components): Markup | null {
  const body = data['requestBody'] as JsonObject | undefined;
  if (body === undefined) return null;
  const content = contentOf(body);
  if (content === null) return null;
  const text = body['description'];
  return markup`<h4>
      Body
      <span class="media">${content.mediaType}</span
      >${body['required'] === false ? markup` <span class="optional">optional</span>` : null}
    </h4>
    ${typeof text === 'string' ? markup`<p>${text}</p>` : schemaView(content.schema, 'sent', components.schemas)}`;
}

function answersView(data: JsonObject, components: Components): Markup {
  const all = Object.entries(data['responses'] as Record<string, JsonObject>);
  const success = all.filter(([status]) => Number(status) < 400);
  const errors = all.filter(([status]) => Number(status) >= 400);
  return markup`<h4>Answer</h4>
    ${success.map(([status, answer]) => {
      const content = contentOf(answer);
      const isJson = content !== null && content.schema['format'] !== 'binary';
      return markup`<p class="answer">
          <span class="status ok">${status}</span> ${inline(textOf(answer['description']))}${
            content === null ? null : markup` <span class="media">${content.mediaType}</span>`
          }
        </p>
        ${isJson ? schemaView(content.schema, 'answered', components.schemas) : null}`;
    })}
    <details class="errors">
      <summary>Errors</summary>
      <ul>
        ${errors.flatMap(([status, answer]) => {
          const name = textOf(answer['$ref']).split('/').pop() ?? '';
          return codesOf(components.responses[name]).map(
            (code) =>
              markup`<li>
                <span class="status">${status}</span> <a href="#error-${code}"><code>${code}</code></a>
              </li>`,
          );
        })}
      </ul>
    </details>`;
}

function codesOf(answer: JsonObject | undefined): string[] {
  return [...textOf(answer?.['description']).matchAll(/^`(\w+)`/gm)].map((match) => match[1] ?? '');
}

function exampleView({ data, method, path, id }: Operation): Markup | null {
  const responses = data['responses'] as Record<string, Json>;
  if (responses['101'] !== undefined) return null;
  const parts = ['curl --unix-socket /run/lodge/lodge.sock'];
  const body = data['requestBody'] as { content: Record<string, { example?: Json }> } | undefined;
  const example = body?.content['application/json']?.example;
  if (example !== undefined) parts.push(`--json '${JSON.stringify(example)}'`);
  else if (body?.content['application/octet-stream'] !== undefined) {
    parts.push("--header 'Content-Type: application/octet-stream' --upload-file FILE");
  }
  const implied = example !== undefined ? 'post' : body === undefined || example !== undefined ? 'get' : 'put';
  if (method !== implied) parts.push(`--request ${method.toUpperCase()}`);
  const answer = contentOf((responses['200'] as JsonObject | undefined) ?? {});
  if (answer?.mediaType === 'text/event-stream') parts.push('--no-buffer');
  if (answer?.mediaType === 'image/png') parts.push('--output screen.png');
  const target = path.replace(/\{(\w+)\}/g, (_whole, name: string) => (name === 'vm' ? 'web1' : name.toUpperCase()));
  const query = id === 'vm.readFile' || id === 'vm.writeFile' ? '?path=/etc/hostname' : '';
  parts.push(`'http://lodge${target}${query}'`);
  return markup`<details class="example">
    <summary>Example</summary>
    <pre><code>${parts.join(' \\\n  ')}</code></pre>
  </details>`;
}

function errorTable(): Markup {
  return markup`<section class="static" id="errors">
    <h2>errors</h2>
    <p>
      Every answer that is not a success has this body, and so has the data of <code>event: error</code> in a stream:
    </p>
    <pre><code>{
  "error": {
    "code": "not_found",
    "message": "there is no vm web1 in project default",
    "hint": "List the objects to see their names; names are looked up in one project.",
    "requestId": "5f0c9a1e-2k"
  }
}</code></pre>
    <div class="scroll">
      <table>
        <thead>
          <tr>
            <th>Code</th>
            <th>HTTP</th>
            <th>Meaning</th>
            <th>What to do</th>
          </tr>
        </thead>
        <tbody>
          ${Object.entries(errorCodes).map(
            ([code, { status, meaning, hint }]) =>
              markup`<tr id="error-${code}">
                <td><code>${code}</code></td>
                <td>${status}</td>
                <td>${meaning}</td>
                <td>${hint}</td>
              </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </section>`;
}

function permissionTable(operations: readonly Operation[]): Markup {
  return markup`<section class="static" id="permissions">
    <h2>permissions</h2>
    <p>The role <code>admin</code> gives every permission; <code>viewer</code> those that are marked.</p>
    <div class="scroll">
      <table>
        <thead>
          <tr>
            <th>Permission</th>
            <th>viewer</th>
            <th>Operations</th>
          </tr>
        </thead>
        <tbody>
          ${permissions.map(
            (permission) =>
              markup`<tr>
                <td><code>${permission}</code></td>
                <td>${roleAllows('viewer', permission) ? 'yes' : ''}</td>
                <td>
                  ${operations
                    .filter((operation) => operation.data['x-permission'] === permission)
                    .flatMap((operation, index) => [
                      index === 0 ? markup`` : markup`, `,
                      markup`<a href="#${operation.id}">${operation.id}</a>`,
                    ])}
                </td>
              </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </section>`;
}
