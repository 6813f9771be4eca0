// Signing in with an access token: as a page, and over what was open when a session has ended (sign-in-again.tsx).
import { Anchor, Box, Button, Center, Code, Paper, PasswordInput, Stack, Text, Title } from '@mantine/core';
import { useState, type FormEvent } from 'react';
import { openSession } from '../data/client.ts';
import { queryClient } from '../data/queries.ts';
import { useText } from '../i18n/language.ts';
import { Failure } from '../ui/failure.tsx';

export function SignInForm({ onDone, firstFailure = null }: { onDone?: () => void; firstFailure?: unknown }) {
  const t = useText();
  const [token, setToken] = useState('');
  const [failure, setFailure] = useState<unknown>(firstFailure);
  const [isBusy, setBusy] = useState(false);
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    setBusy(true);
    setFailure(null);
    openSession({ token: token.trim() })
      .then(() => {
        void queryClient.invalidateQueries();
        onDone?.();
      }, setFailure)
      .finally(() => setBusy(false));
  };
  return (
    <form onSubmit={submit}>
      <Stack gap="md">
        {failure !== null && <Failure failure={failure} />}
        <PasswordInput
          label={t('sign-in.token')}
          description={t('sign-in.token-hint')}
          value={token}
          onChange={(event) => setToken(event.currentTarget.value)}
          autoComplete="current-password"
          name="token"
          visibilityToggleButtonProps={{ 'aria-label': t('sign-in.show') }}
          required
          data-autofocus
        />
        <Button type="submit" loading={isBusy} disabled={token.trim() === ''} fullWidth>
          {t('sign-in.action')}
        </Button>
        <Box fz="sm" c="dimmed">
          <Text fz="sm" mb={6}>
            {t('sign-in.how')}
          </Text>
          <Code block>lodge console</Code>
        </Box>
      </Stack>
    </form>
  );
}

export function SignInPage({ failure }: { failure: unknown }) {
  const t = useText();
  return (
    <Center mih="100dvh" p="md" component="main">
      <Paper className="card" p="xl" w="100%" maw={420} shadow="md">
        <Stack gap="lg">
          <Box className="brand">
            <img src="/icon.svg" alt="" />
            Lodge
          </Box>
          <Box>
            <Title order={1} fz={22}>
              {t('sign-in.title')}
            </Title>
            <Text c="dimmed" fz="sm" mt={4}>
              {t('sign-in.subtitle')}
            </Text>
          </Box>
          <SignInForm firstFailure={failure} />
          <Anchor href="/docs" fz="xs" c="dimmed" underline="always">
            {t('nav.api')}
          </Anchor>
        </Stack>
      </Paper>
    </Center>
  );
}
