// How the console is bundled, for building it and for the server of console-server.ts alike.
import { type InlineConfig, type Plugin } from 'vite';

/**
 * Takes the descriptions out of the contract's schemas and routes: they are for documents, and half of what a page would load of it.
 * What is no plain text stays.
 */
function withoutDescriptions(): Plugin {
  const description = /\.describe\(\s*(?:'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")\s*,?\s*\)/g;
  const words = /^( +(?:summary|description):\s*)(?:'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")(?=,$)/gm;
  return {
    name: 'lodge-without-descriptions',
    enforce: 'pre',
    apply: 'build',
    transform: {
      filter: { id: /\/src\/api\/[^/]+\.ts$/ },
      handler: (code) => ({ code: code.replace(description, '').replace(words, "$1''"), map: null }),
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
        output: {
          // What every page needs in a few files: many small ones compress worse.
          codeSplitting: {
            groups: [
              {
                name: 'base',
                test: /node_modules\/(react|react-dom|scheduler|@tanstack|zod|i18next|@babel|use-sync-external-store)\//,
              },
              { name: 'contract', test: /\/src\/(api|client)\// },
              {
                name: 'frame',
                test: /\/web\/(app\/(shell|router|theme|account-menu|nouns)|data\/|ui\/(data-table|list-page|link|page|failure|state|time|empty|action-button)\.tsx|vm\/vm-(menu|list-page|power))/,
              },
            ],
          },
        },
        // Libraries say "use client" for frameworks that render on a server, which means nothing here.
        onwarn: (warning, warn) => {
          if (warning.code !== 'MODULE_LEVEL_DIRECTIVE') warn(warning);
        },
      },
    },
  };
}
