// How the console is bundled, for building it and for the server of console-server.ts alike.
import { type InlineConfig, type Plugin } from 'vite';

/**
 * Takes the descriptions out of the contract's schemas: they are for documents, and half of what a page would load of it.
 * What is no plain text stays.
 */
function withoutDescriptions(): Plugin {
  const description = /\.describe\(\s*(?:'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")\s*,?\s*\)/g;
  return {
    name: 'lodge-without-descriptions',
    enforce: 'pre',
    apply: 'build',
    transform: {
      filter: { id: /\/src\/api\/[^/]+\.ts$/ },
      handler: (code) => ({ code: code.replace(description, ''), map: null }),
    },
  };
}

/** What vite is given; `root` is the folder web/. */
export function consoleConfig(root: string): InlineConfig & { build: NonNullable<InlineConfig['build']> } {
  return {
    configFile: false,
    plugins: [withoutDescriptions()],
    root,
    oxc: { jsx: { runtime: 'automatic' } },
    html: { cspNonce: '__LODGE_NONCE__' },
    build: {
      target: 'es2023',
      // The first that have light-dark(), which would otherwise be rewritten.
      cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
      emptyOutDir: true,
      // A picture in the code would be loaded with it.
      assetsInlineLimit: 0,
      modulePreload: { polyfill: false },
      reportCompressedSize: false,
      chunkSizeWarningLimit: 2000,
      rolldownOptions: {
        // Libraries say "use client" for frameworks that render on a server, which means nothing here.
        onwarn: (warning, warn) => {
          if (warning.code !== 'MODULE_LEVEL_DIRECTIVE') warn(warning);
        },
      },
    },
  };
}
