// The page of an object that has no tabs: what is known of it, what can be done with it, and all of it as YAML.
import { Button, Group, Modal, Skeleton, Stack, Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { Trash2 } from 'lucide-react';
import { useState, type ReactNode } from 'react';
import { loadPart } from '../data/part.ts';
import { type Permission } from '../../src/api/permission.ts';
import { useMay } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { useText } from '../i18n/language.ts';
import { ActionButton } from './action-button.tsx';
import { CodeBlock } from './copy.tsx';
import { Failure } from './failure.tsx';
import { useGo, useParam } from './link.tsx';
import { Facts, Page, Section } from './page.tsx';
import { State } from './state.tsx';

interface ObjectPageProps<Item> {
  /** As in the change stream. */
  kind: string;
  read: (ref: string) => Promise<Item>;
  facts: (item: Item) => readonly (readonly [string, ReactNode])[];
  state?: (item: Item) => string;
  subtitle?: (item: Item) => ReactNode;
  /** Below the facts. */
  more?: (item: Item) => ReactNode;
  actions?: (item: Item) => ReactNode;
  remove: {
    run: (item: Item) => Promise<unknown>;
    permission: Permission;
    /** Names of what uses it, which keeps it from being deleted; empty: nothing does. */
    usedBy?: (item: Item) => string;
    listPath: string;
  };
}

export function ObjectPage<Item extends { name: string; spec: unknown }>(props: ObjectPageProps<Item>) {
  const t = useText();
  const ref = useParam('name');
  const go = useGo();
  const [isAsking, setAsking] = useState(false);
  const {
    data: item,
    error,
    refetch,
  } = useQuery({
    queryKey: [props.kind, 'one', ref],
    queryFn: () => props.read(ref),
  });
  const { data: yaml } = useQuery({
    queryKey: ['yaml'],
    queryFn: () => loadPart(() => import('yaml')),
    staleTime: Infinity,
  });
  const { remove } = props;
  const mayRemove = useMay(remove.permission);
  const removing = useAction(remove.run, { onDone: () => go(remove.listPath) });
  if (item === undefined || error !== null) {
    return (
      <Page title={ref}>
        {error === null ? <Skeleton height={160} /> : <Failure failure={error} onRetry={() => void refetch()} />}
      </Page>
    );
  }
  const usedBy = remove.usedBy?.(item) ?? '';
  const whyKept = usedBy === '' ? null : t('object.in-use', { by: usedBy });
  return (
    <Page
      title={item.name}
      badge={props.state === undefined ? undefined : <State state={props.state(item)} />}
      subtitle={props.subtitle?.(item)}
      actions={
        <>
          {props.actions?.(item)}
          <ActionButton
            leftSection={<Trash2 size={15} />}
            reason={mayRemove ? whyKept : t('snapshot.no-permission')}
            onClick={() => setAsking(true)}
          >
            {t('common.delete')}
          </ActionButton>
        </>
      }
    >
      <Section title={t('object.facts')}>
        <Facts rows={props.facts(item)} />
      </Section>
      {props.more?.(item)}
      <Section title="YAML">
        <CodeBlock text={yaml?.stringify({ spec: item.spec }, { lineWidth: 0 }) ?? ''} />
      </Section>
      {isAsking && (
        <Modal
          opened
          onClose={() => setAsking(false)}
          title={t('object.delete-title', { name: item.name })}
          closeButtonProps={{ 'aria-label': t('common.close') }}
        >
          <Stack>
            <Text fz="sm">{t('object.delete-text')}</Text>
            <Group justify="flex-end">
              <Button variant="default" onClick={() => setAsking(false)} data-autofocus>
                {t('common.cancel')}
              </Button>
              <Button
                color="red"
                loading={removing.isPending}
                onClick={() => {
                  setAsking(false);
                  removing.mutate(item);
                }}
              >
                {t('common.delete')}
              </Button>
            </Group>
          </Stack>
        </Modal>
      )}
    </Page>
  );
}
