// What a VM's display shows, renewed while it is looked at. A picture that has not changed is not sent again.
import { Box, Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { useEffect, useState } from 'react';
import { type Vm } from '../../src/api/vm.ts';
import { client } from '../data/client.ts';
import { useText } from '../i18n/language.ts';
import { asLodgeError } from '../ui/failure.tsx';
import { refOf } from '../ui/list-page.tsx';
import { useLinkTo } from '../ui/link.tsx';

interface ScreenshotProps {
  vm: Vm;
  /** How often it is renewed. */
  everyMs?: number;
  widthPixels?: number;
}

export function Screenshot({ vm, everyMs = 3000, widthPixels = 640 }: ScreenshotProps) {
  const t = useText();
  const linkTo = useLinkTo();
  const [url, setUrl] = useState<string | null>(null);
  const { data, error } = useQuery({
    queryKey: ['screenshot', vm.id, widthPixels],
    queryFn: async () => {
      const answer = await client.vm.screenshot({ params: { vm: vm.id }, query: { width: widthPixels } });
      return new Blob([(await answer.bytes()) as Uint8Array<ArrayBuffer>], { type: 'image/png' });
    },
    refetchInterval: everyMs,
    retry: false,
  });
  useEffect(() => {
    if (data === undefined) return undefined;
    const made = URL.createObjectURL(data);
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [data]);
  if (error !== null && url === null) {
    return (
      <Text fz="sm" c="dimmed">
        {asLodgeError(error).message}
      </Text>
    );
  }
  return (
    <a {...linkTo(`/vms/${refOf(vm)}/console`)} aria-label={t('vm.tab.console')}>
      <Box mih={widthPixels / 4} bg="#000" style={{ borderRadius: 8, overflow: 'hidden' }}>
        {url !== null && (
          <img src={url} alt={t('vm.display-of', { name: vm.name })} style={{ width: '100%', display: 'block' }} />
        )}
      </Box>
    </a>
  );
}
