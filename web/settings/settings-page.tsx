// This daemon, this browser's session, language and colours.
import { Button, Group, SegmentedControl, Stack, useMantineColorScheme } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { client, closeSession, useSignIn } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { chooseLanguage, currentLanguage, languages, useText } from '../i18n/language.ts';
import { CodeBlock } from '../ui/copy.tsx';
import { Failure } from '../ui/failure.tsx';
import { Facts, Page, Section } from '../ui/page.tsx';
import { Ago } from '../ui/time.tsx';

export function SettingsPage() {
  const t = useText();
  const { session } = useSignIn();
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const server = useQuery({ queryKey: ['server'], queryFn: () => client.server.get() });
  const signOut = useAction(closeSession);
  return (
    <Page title={t('nav.settings')}>
      {server.error !== null && <Failure failure={server.error} onRetry={() => void server.refetch()} />}
      <Section title={t('settings.appearance')}>
        <Stack gap="sm" align="flex-start">
          <SegmentedControl
            aria-label={t('settings.language')}
            value={currentLanguage()}
            onChange={(value) => void chooseLanguage(value === 'zh' ? 'zh' : 'en')}
            data={Object.entries(languages).map(([value, label]) => ({ value, label }))}
          />
          <SegmentedControl
            aria-label={t('settings.colors')}
            value={colorScheme}
            onChange={(value) => setColorScheme(value === 'dark' ? 'dark' : value === 'light' ? 'light' : 'auto')}
            data={[
              { value: 'auto', label: t('theme.auto') },
              { value: 'light', label: t('theme.light') },
              { value: 'dark', label: t('theme.dark') },
            ]}
          />
        </Stack>
      </Section>
      <Section title={t('settings.session')}>
        <Stack gap="md">
          <Facts
            rows={[
              [t('settings.caller'), session?.caller],
              [t('settings.role'), session?.role],
              [t('settings.since'), <Ago key="since" at={session?.createdAt} />],
              [t('settings.until'), <Ago key="until" at={session?.expiresAt} />],
            ]}
          />
          <Group gap="xs">
            <Button variant="default" onClick={() => signOut.mutate(false)}>
              {t('account.sign-out')}
            </Button>
            <Button variant="default" onClick={() => signOut.mutate(true)}>
              {t('account.sign-out-everywhere')}
            </Button>
          </Group>
        </Stack>
      </Section>
      {server.data !== undefined && (
        <Section title={t('settings.daemon')}>
          <Stack gap="md">
            <Facts
              rows={[
                [t('settings.version'), server.data.version],
                [t('settings.instance'), server.data.instance],
                [t('nav.node'), server.data.node],
                [t('settings.addresses'), server.data.httpsAddresses.join(', ')],
              ]}
            />
            {server.data.caCertificate !== null && (
              <>
                <div>{t('settings.authority')}</div>
                <CodeBlock text={server.data.caCertificate} maxHeight={180} />
              </>
            )}
          </Stack>
        </Section>
      )}
    </Page>
  );
}
