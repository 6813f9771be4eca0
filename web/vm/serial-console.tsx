// The serial console in the page: xterm.js at a WebSocket. It shows what was kept of the output first.
import '@xterm/xterm/css/xterm.css';
import { Box, Button, Group, Text } from '@mantine/core';
import { FitAddon } from '@xterm/addon-fit';
import { Terminal } from '@xterm/xterm';
import { useEffect, useRef, useState } from 'react';
import { useText } from '../i18n/language.ts';
import { Failure } from '../ui/failure.tsx';
import { consoleAddress } from './console-socket.ts';

type Connection = 'connecting' | 'open' | 'closed';

/** How long after a break it is connected anew by itself, milliseconds; then it is left to the user. */
const retryMs = 1000;
const mostRetries = 5;

export function SerialConsole({ vmId }: { vmId: string }) {
  const t = useText();
  const place = useRef<HTMLDivElement>(null);
  const [state, setState] = useState<Connection>('connecting');
  const [failure, setFailure] = useState<unknown>(null);
  const [attempt, setAttempt] = useState(0);

  useEffect(() => {
    const element = place.current;
    if (element === null) return undefined;
    const terminal = new Terminal({
      fontFamily: 'ui-monospace, "SF Mono", "JetBrains Mono", Consolas, "Liberation Mono", monospace',
      fontSize: 14,
      cursorBlink: !matchMedia('(prefers-reduced-motion: reduce)').matches,
      scrollback: 5000,
      theme: { background: '#111214', foreground: '#e4e6ea', cursor: '#e48a49' },
      screenReaderMode: true,
    });
    const fit = new FitAddon();
    terminal.loadAddon(fit);
    terminal.open(element);
    fit.fit();
    terminal.focus();
    const resizing = new ResizeObserver(() => fit.fit());
    resizing.observe(element);

    const encoder = new TextEncoder();
    let socket: WebSocket | null = null;
    let isOver = false;
    let retries = 0;
    let timer: ReturnType<typeof setTimeout> | undefined;
    terminal.onData((text) => {
      if (socket?.readyState === WebSocket.OPEN) socket.send(encoder.encode(text));
    });
    const open = async (): Promise<void> => {
      setState('connecting');
      const address = await consoleAddress(vmId, 'serial');
      if (isOver) return;
      socket = new WebSocket(address);
      socket.binaryType = 'arraybuffer';
      socket.addEventListener('open', () => {
        retries = 0;
        // The kept output comes again with every connection.
        terminal.reset();
        setState('open');
        setFailure(null);
      });
      socket.addEventListener('message', ({ data }: MessageEvent<ArrayBuffer>) => terminal.write(new Uint8Array(data)));
      socket.addEventListener('close', () => {
        if (isOver) return;
        setState('closed');
        if (retries < mostRetries) timer = setTimeout(start, retryMs * 2 ** retries++);
      });
    };
    const start = (): void =>
      void open().catch((reason: unknown) => {
        if (isOver) return;
        setFailure(reason);
        setState('closed');
      });
    start();
    return () => {
      isOver = true;
      clearTimeout(timer);
      socket?.close();
      resizing.disconnect();
      terminal.dispose();
    };
  }, [vmId, attempt]);

  return (
    <Box>
      {failure !== null && <Failure failure={failure} onRetry={() => setAttempt((count) => count + 1)} />}
      <Group justify="space-between" my="xs">
        <Text fz="sm" c="dimmed" role="status" data-connection={state}>
          {t(`console.${state}`)}
        </Text>
        {state === 'closed' && (
          <Button size="compact-sm" variant="default" onClick={() => setAttempt((count) => count + 1)}>
            {t('console.reconnect')}
          </Button>
        )}
      </Group>
      <Box
        ref={place}
        bg="#111214"
        p={8}
        h="max(320px, calc(100dvh - 330px))"
        style={{ borderRadius: 10, overflow: 'hidden' }}
        data-console="serial"
      />
    </Box>
  );
}
