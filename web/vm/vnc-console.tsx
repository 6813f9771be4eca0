// The display of a VM in the page: noVNC at a WebSocket, with keys that browsers keep to themselves, clipboard and full
// screen.
import { Box, Button, Group, Menu, Popover, Stack, Switch, Text, Textarea } from '@mantine/core';
import RFB from '@novnc/novnc';
import { ChevronDown, Clipboard, Keyboard, Maximize } from 'lucide-react';
import { useEffect, useRef, useState } from 'react';
import { useText } from '../i18n/language.ts';
import { Failure } from '../ui/failure.tsx';
import { consoleAddress } from './console-socket.ts';

type Connection = 'connecting' | 'open' | 'closed';

/** Keys that a browser or the system takes for itself: names, and keysyms of X11 (keysymdef.h). */
const control = 0xff_e3;
const alt = 0xff_e9;
const combinations: readonly (readonly [string, readonly number[]])[] = [
  ['Ctrl+Alt+Del', [control, alt, 0xff_ff]],
  ['Ctrl+Alt+F1', [control, alt, 0xff_be]],
  ['Ctrl+Alt+F2', [control, alt, 0xff_bf]],
  ['Alt+Tab', [alt, 0xff_09]],
  ['Ctrl+W', [control, 0x77]],
  ['Super', [0xff_eb]],
  ['Esc', [0xff_1b]],
];

export function VncConsole({ vmId }: { vmId: string }) {
  const t = useText();
  const frame = useRef<HTMLDivElement>(null);
  const place = useRef<HTMLDivElement>(null);
  const viewer = useRef<RFB | null>(null);
  const [state, setState] = useState<Connection>('connecting');
  const [failure, setFailure] = useState<unknown>(null);
  const [attempt, setAttempt] = useState(0);
  const [isScaled, setScaled] = useState(true);
  const [clipboard, setClipboard] = useState('');

  useEffect(() => {
    const element = place.current;
    if (element === null) return undefined;
    let isOver = false;
    const open = async (): Promise<void> => {
      setState('connecting');
      const address = await consoleAddress(vmId, 'vnc');
      if (isOver) return;
      const rfb = new RFB(element, address, { shared: true, wsProtocols: ['binary'] });
      viewer.current = rfb;
      rfb.scaleViewport = true;
      rfb.background = '#111214';
      rfb.addEventListener('connect', () => {
        setState('open');
        setFailure(null);
        rfb.focus();
      });
      rfb.addEventListener('disconnect', () => {
        viewer.current = null;
        if (!isOver) setState('closed');
      });
      rfb.addEventListener('clipboard', (event) => {
        setClipboard((event as CustomEvent<{ text: string }>).detail.text);
      });
    };
    open().catch((reason: unknown) => {
      if (isOver) return;
      setFailure(reason);
      setState('closed');
    });
    return () => {
      isOver = true;
      viewer.current?.disconnect();
      viewer.current = null;
    };
  }, [vmId, attempt]);
  useEffect(() => {
    if (viewer.current !== null) viewer.current.scaleViewport = isScaled;
  }, [isScaled]);

  const press = (keys: readonly number[]): void => {
    for (const key of keys) viewer.current?.sendKey(key, null, true);
    for (const key of keys.toReversed()) viewer.current?.sendKey(key, null, false);
    viewer.current?.focus();
  };
  return (
    <Box>
      {failure !== null && <Failure failure={failure} onRetry={() => setAttempt((count) => count + 1)} />}
      <Group justify="space-between" my="xs">
        <Text fz="sm" c="dimmed" role="status" data-connection={state}>
          {t(`console.${state}`)}
        </Text>
        <Group gap="xs">
          {state === 'closed' && (
            <Button size="compact-sm" variant="default" onClick={() => setAttempt((count) => count + 1)}>
              {t('console.reconnect')}
            </Button>
          )}
          <Switch
            size="xs"
            label={t('console.scale')}
            checked={isScaled}
            onChange={(event) => setScaled(event.currentTarget.checked)}
          />
          <Menu>
            <Menu.Target>
              <Button
                size="compact-sm"
                variant="default"
                leftSection={<Keyboard size={14} />}
                rightSection={<ChevronDown size={12} />}
              >
                {t('console.keys')}
              </Button>
            </Menu.Target>
            <Menu.Dropdown>
              {combinations.map(([name, keys]) => (
                <Menu.Item key={name} onClick={() => press(keys)}>
                  {name}
                </Menu.Item>
              ))}
            </Menu.Dropdown>
          </Menu>
          <Popover position="bottom-end" width={300} trapFocus>
            <Popover.Target>
              <Button size="compact-sm" variant="default" leftSection={<Clipboard size={14} />}>
                {t('console.clipboard')}
              </Button>
            </Popover.Target>
            <Popover.Dropdown>
              <Stack gap="xs">
                <Textarea
                  label={t('console.clipboard-hint')}
                  autosize
                  minRows={3}
                  maxRows={8}
                  value={clipboard}
                  onChange={(event) => setClipboard(event.currentTarget.value)}
                />
                <Button size="compact-sm" onClick={() => viewer.current?.clipboardPasteFrom(clipboard)}>
                  {t('console.clipboard-send')}
                </Button>
              </Stack>
            </Popover.Dropdown>
          </Popover>
          <Button
            size="compact-sm"
            variant="default"
            leftSection={<Maximize size={14} />}
            onClick={() => void frame.current?.requestFullscreen()}
          >
            {t('console.full-screen')}
          </Button>
        </Group>
      </Group>
      <Box
        ref={frame}
        bg="#111214"
        h="max(320px, calc(100dvh - 330px))"
        style={{ borderRadius: 10, overflow: 'hidden' }}
      >
        <Box ref={place} h="100%" w="100%" data-console="vnc" />
      </Box>
    </Box>
  );
}
