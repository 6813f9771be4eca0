// Where a page can't be shown: it says why instead of being white, and the rest of the console stays usable.
import { Stack } from '@mantine/core';
import { type ErrorComponentProps } from '@tanstack/react-router';
import { SearchX } from 'lucide-react';
import { useText } from '../i18n/language.ts';
import { Empty } from '../ui/empty.tsx';
import { Failure } from '../ui/failure.tsx';
import { TextLink } from '../ui/link.tsx';

export function PageFailure({ error, reset }: ErrorComponentProps) {
  return (
    <Stack>
      <Failure failure={error} onRetry={reset} />
    </Stack>
  );
}

export function NotFound() {
  const t = useText();
  return (
    <Empty
      icon={<SearchX size={40} />}
      title={t('not-found.title')}
      text={t('not-found.text')}
      action={<TextLink href="/vms">{t('nav.vms')}</TextLink>}
    />
  );
}
