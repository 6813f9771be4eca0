// In place of what has not been read yet: that it is on its way, or why it did not come.
import { Loader } from '@mantine/core';
import { useText } from '../i18n/language.ts';
import { Failure } from './failure.tsx';

export function Loading({ error, m }: { error?: Error | null; m?: string }) {
  const t = useText();
  if (error) return <Failure failure={error} />;
  return <Loader role="status" {...(m === undefined ? {} : { m })} aria-label={t('common.loading')} />;
}
