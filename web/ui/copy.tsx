// Text to copy: a command, an address, a document.
import { ActionIcon, Box, CopyButton, ScrollArea, Tooltip } from '@mantine/core';
import { Check, Copy } from 'lucide-react';
import { useText } from '../i18n/language.ts';

export function CopyIcon({ text, label }: { text: string; label?: string }) {
  const t = useText();
  return (
    <CopyButton value={text} timeout={1500}>
      {({ copied, copy }) => (
        <Tooltip label={copied ? t('common.copied') : (label ?? t('common.copy'))}>
          <ActionIcon variant="subtle" color="gray" size="sm" onClick={copy} aria-label={label ?? t('common.copy')}>
            {copied ? <Check size={14} /> : <Copy size={14} />}
          </ActionIcon>
        </Tooltip>
      )}
    </CopyButton>
  );
}

/** A block of code with a button that copies it. */
export function CodeBlock({ text, maxHeight = 420 }: { text: string; maxHeight?: number }) {
  return (
    <Box pos="relative" className="card" bg="var(--lodge-ground)">
      <Box pos="absolute" top={8} right={8} style={{ zIndex: 1 }}>
        <CopyIcon text={text} />
      </Box>
      <ScrollArea.Autosize mah={maxHeight} type="auto" viewportProps={{ tabIndex: 0 }}>
        <Box component="pre" m={0} p="sm" pr={44} fz={13} className="mono">
          {text}
        </Box>
      </ScrollArea.Autosize>
    </Box>
  );
}
