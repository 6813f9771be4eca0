// The snapshots of a VM as a tree: take one, go back to one, delete one.
import { Badge, Box, Button, Checkbox, Group, Modal, Stack, Text, TextInput, Textarea } from '@mantine/core';
import { useInfiniteQuery } from '@tanstack/react-query';
import { Camera, History, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { type Snapshot } from '../../src/api/snapshot.ts';
import { liveVmStates } from '../../src/api/vm-state.ts';
import { type Vm } from '../../src/api/vm.ts';
import { client, useMay } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { formatBytes } from '../i18n/format.ts';
import { sayOr, useText } from '../i18n/language.ts';
import { ActionButton } from '../ui/action-button.tsx';
import { Empty } from '../ui/empty.tsx';
import { Failure } from '../ui/failure.tsx';
import { Section } from '../ui/page.tsx';
import { Ago } from '../ui/time.tsx';
import { snapshotTree } from './snapshot-tree.ts';
import { FormDialog } from '../ui/form-dialog.tsx';

const pixelsDeep = 22;
/** Deeper ones are not moved further to the right. */
const mostSteps = 8;

export function SnapshotsTab({ vm }: { vm: Vm }) {
  const t = useText();
  const mayTake = useMay('snapshot.create');
  const [isTaking, setTaking] = useState(false);
  const [reverting, setReverting] = useState<Snapshot | null>(null);
  const { data, error, refetch } = useInfiniteQuery({
    queryKey: ['snapshot', 'list', vm.id],
    queryFn: ({ pageParam }) =>
      client.snapshot.list({
        params: { vm: vm.id },
        query: { project: vm.project, limit: 500, ...(pageParam === '' ? {} : { continue: pageParam }) },
      }),
    initialPageParam: '',
    getNextPageParam: (last) => last.continue,
  });
  const snapshots = data?.pages.flatMap((page) => page.items) ?? [];
  const reason = !mayTake ? t('snapshot.no-permission') : vm.status.taskId !== null ? t('vm.reason.busy') : null;
  const take = (
    <ActionButton variant="filled" leftSection={<Camera size={15} />} reason={reason} onClick={() => setTaking(true)}>
      {t('snapshot.take')}
    </ActionButton>
  );
  return (
    <>
      {error !== null && <Failure failure={error} onRetry={() => void refetch()} />}
      {data !== undefined && snapshots.length === 0 ? (
        <Empty
          icon={<Camera size={44} strokeWidth={1.4} />}
          title={t('snapshot.none')}
          text={t('snapshot.none-text')}
          action={take}
        />
      ) : (
        <Section title={t('vm.tab.snapshots')} actions={take}>
          <Stack gap={0} role="list" aria-label={t('vm.tab.snapshots')}>
            {snapshotTree(snapshots).map(({ snapshot, depth }) => (
              <Row
                key={snapshot.id}
                vm={vm}
                snapshot={snapshot}
                depth={depth}
                onRevert={() => setReverting(snapshot)}
              />
            ))}
          </Stack>
        </Section>
      )}
      {isTaking && <TakeDialog vm={vm} onClose={() => setTaking(false)} />}
      {reverting !== null && <RevertDialog vm={vm} snapshot={reverting} onClose={() => setReverting(null)} />}
    </>
  );
}

interface RowProps {
  vm: Vm;
  snapshot: Snapshot;
  depth: number;
  onRevert: () => void;
}

function Row({ vm, snapshot, depth, onRevert }: RowProps) {
  const t = useText();
  const mayRevert = useMay('snapshot.revert');
  const mayDelete = useMay('snapshot.delete');
  const { status, spec } = snapshot;
  const params = { vm: vm.id, snapshot: snapshot.id };
  const remove = useAction(() => client.snapshot.delete({ params, query: { project: vm.project } }));
  const busy = vm.status.taskId === null ? null : t('vm.reason.busy');
  return (
    <Box
      role="listitem"
      data-depth={depth}
      py="sm"
      pl={Math.min(depth, mostSteps) * pixelsDeep}
      style={{ borderBottom: '1px solid var(--lodge-line)' }}
    >
      <Group justify="space-between" gap="sm">
        <Box miw={0} flex="1 1 240px">
          <Group gap={8}>
            <Text fw={600} fz="sm">
              {snapshot.name}
            </Text>
            {status.isCurrent && (
              <Badge className="state" data-tone="green">
                {t('snapshot.current')}
              </Badge>
            )}
            {status.consistency !== null && (
              <Badge
                className="state"
                data-tone={status.consistency === 'crash' ? 'yellow' : 'blue'}
                title={status.consistencyReason}
              >
                {sayOr(`snapshot.consistency.${status.consistency}`, status.consistency)}
              </Badge>
            )}
          </Group>
          <Text fz="xs" c="dimmed" className="break">
            <Ago at={status.takenAt ?? snapshot.createdAt} />
            {status.sizeBytes === null ? '' : ` · ${formatBytes(status.sizeBytes)}`}
            {spec.description === '' ? '' : ` · ${spec.description}`}
          </Text>
          {status.warning !== null && <Text fz="xs">{status.warning}</Text>}
        </Box>
        <Group gap="xs">
          <ActionButton
            size="xs"
            leftSection={<History size={14} />}
            reason={mayRevert ? busy : t('snapshot.no-permission')}
            onClick={onRevert}
          >
            {t('snapshot.revert')}
          </ActionButton>
          <ActionButton
            size="xs"
            leftSection={<Trash2 size={14} />}
            reason={mayDelete ? busy : t('snapshot.no-permission')}
            onClick={() => remove.mutate(undefined)}
          >
            {t('common.delete')}
          </ActionButton>
        </Group>
      </Group>
    </Box>
  );
}

function TakeDialog({ vm, onClose }: { vm: Vm; onClose: () => void }) {
  const t = useText();
  const [name, setName] = useState(`s-${new Date().toISOString().slice(0, 16).replaceAll(/[T:]/g, '-')}`);
  const [description, setDescription] = useState('');
  const [withMemory, setWithMemory] = useState(false);
  const isLive = liveVmStates.has(vm.status.state);
  const take = useAction(
    () =>
      client.snapshot.create({
        params: { vm: vm.id },
        query: { project: vm.project },
        body: { name, withMemory, spec: { description } },
      }),
    { onDone: onClose, isShownElsewhere: true },
  );
  return (
    <FormDialog title={t('snapshot.take')} submit={t('snapshot.take')} action={take} onClose={onClose}>
      <TextInput
        label={t('column.name')}
        value={name}
        onChange={(event) => setName(event.currentTarget.value)}
        required
        data-autofocus
      />
      <Textarea
        label={t('column.description')}
        value={description}
        onChange={(event) => setDescription(event.currentTarget.value)}
        maxLength={1000}
        autosize
      />
      <Checkbox
        label={t('snapshot.with-memory')}
        description={t('snapshot.with-memory-hint')}
        disabled={!isLive}
        checked={withMemory}
        onChange={(event) => setWithMemory(event.currentTarget.checked)}
      />
    </FormDialog>
  );
}

function RevertDialog({ vm, snapshot, onClose }: { vm: Vm; snapshot: Snapshot; onClose: () => void }) {
  const t = useText();
  const isLive = liveVmStates.has(vm.status.state);
  const [start, setStart] = useState(isLive);
  const revert = useAction(
    () =>
      client.snapshot.revert({
        params: { vm: vm.id, snapshot: snapshot.id },
        query: { project: vm.project },
        body: { force: isLive || vm.status.state === 'suspended', start },
      }),
    { onDone: onClose, isShownElsewhere: true },
  );
  return (
    <Modal
      opened
      onClose={onClose}
      title={t('snapshot.revert-title', { vm: vm.name, name: snapshot.name })}
      closeButtonProps={{ 'aria-label': t('common.close') }}
    >
      <Stack>
        {revert.error !== null && <Failure failure={revert.error} />}
        <Text fz="sm">{t(isLive ? 'snapshot.revert-live' : 'snapshot.revert-text')}</Text>
        <Checkbox
          label={t('snapshot.start-after')}
          checked={start}
          onChange={(event) => setStart(event.currentTarget.checked)}
        />
        <Group justify="flex-end">
          <Button variant="default" onClick={onClose} data-autofocus>
            {t('common.cancel')}
          </Button>
          <Button color="red" loading={revert.isPending} onClick={() => revert.mutate(undefined)}>
            {t('snapshot.revert')}
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}
