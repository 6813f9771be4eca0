// Access tokens: who may sign in from elsewhere, until when; new ones, whose secret is shown once.
import { Alert, Button, Group, NativeSelect, Stack, Table, Text, TextInput } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { KeyRound } from 'lucide-react';
import { useState } from 'react';
import { client, useMay } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { useText } from '../i18n/language.ts';
import { ActionButton } from '../ui/action-button.tsx';
import { CodeBlock } from '../ui/copy.tsx';
import { Empty } from '../ui/empty.tsx';
import { Failure } from '../ui/failure.tsx';
import { Page, Section } from '../ui/page.tsx';
import { Ago } from '../ui/time.tsx';

export function TokenListPage() {
  const t = useText();
  const mayDelete = useMay('token.delete');
  const tokens = useQuery({ queryKey: ['token', 'list'], queryFn: () => client.token.list() });
  const again = (): void => void tokens.refetch();
  const remove = useAction((id: string) => client.token.delete({ params: { token: id } }), { onDone: again });
  return (
    <Page title={t('nav.tokens')} subtitle={t('token.subtitle')}>
      {tokens.error !== null && <Failure failure={tokens.error} onRetry={again} />}
      <NewToken onDone={again} />
      {tokens.data?.items.length === 0 && (
        <Empty icon={<KeyRound size={44} />} title={t('token.empty')} text={t('token.empty-text')} />
      )}
      {tokens.data !== undefined && tokens.data.items.length > 0 && (
        <Section>
          <Table.ScrollContainer minWidth={520}>
            <Table>
              <Table.Thead>
                <Table.Tr>
                  <Table.Th>{t('column.name')}</Table.Th>
                  <Table.Th>{t('settings.role')}</Table.Th>
                  <Table.Th>{t('settings.until')}</Table.Th>
                  <Table.Th>{t('token.used')}</Table.Th>
                  <Table.Th>{t('column.created')}</Table.Th>
                  <Table.Th />
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {tokens.data.items.map((token) => (
                  <Table.Tr key={token.id}>
                    <Table.Td fw={550}>{token.name}</Table.Td>
                    <Table.Td>{token.role}</Table.Td>
                    <Table.Td>{token.expiresAt === null ? t('token.never') : <Ago at={token.expiresAt} />}</Table.Td>
                    <Table.Td>
                      <Ago at={token.lastUsedAt} />
                    </Table.Td>
                    <Table.Td>
                      <Ago at={token.createdAt} />
                    </Table.Td>
                    <Table.Td ta="right">
                      <ActionButton
                        size="compact-xs"
                        reason={mayDelete ? null : t('snapshot.no-permission')}
                        onClick={() => remove.mutate(token.id)}
                      >
                        {t('common.delete')}
                      </ActionButton>
                    </Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </Table.ScrollContainer>
        </Section>
      )}
    </Page>
  );
}

function NewToken({ onDone }: { onDone: () => void }) {
  const t = useText();
  const mayCreate = useMay('token.create');
  const [name, setName] = useState('');
  const [role, setRole] = useState<'viewer' | 'admin'>('viewer');
  const create = useAction(() => client.token.create({ body: { name, role } }), {
    isShownElsewhere: true,
    onDone: () => {
      setName('');
      onDone();
    },
  });
  if (!mayCreate) return null;
  return (
    <Section title={t('token.new')}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          create.mutate(undefined);
        }}
      >
        <Stack>
          {create.error !== null && <Failure failure={create.error} />}
          <Group align="flex-end">
            <TextInput
              label={t('column.name')}
              value={name}
              onChange={(event) => setName(event.currentTarget.value)}
              required
            />
            <NativeSelect
              label={t('settings.role')}
              value={role}
              data={['viewer', 'admin']}
              onChange={(event) => setRole(event.currentTarget.value === 'admin' ? 'admin' : 'viewer')}
            />
            <Button type="submit" loading={create.isPending} disabled={name === ''}>
              {t('create.action')}
            </Button>
          </Group>
          {create.data !== undefined && (
            <Alert color="green" title={t('token.once')}>
              <CodeBlock text={create.data.secret} />
              <Text fz="xs" mt="xs">
                Authorization: Bearer …
              </Text>
            </Alert>
          )}
        </Stack>
      </form>
    </Section>
  );
}
