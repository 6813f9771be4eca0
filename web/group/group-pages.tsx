// Groups: all of them, and one with its members in their order.
import { Boxes } from 'lucide-react';
import { type Group } from '../../src/api/group.ts';
import { client, useMay } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { useText, type TextKey } from '../i18n/language.ts';
import { ActionButton } from '../ui/action-button.tsx';
import { useColumns } from '../ui/columns.tsx';
import { Empty } from '../ui/empty.tsx';
import { ListPage } from '../ui/list-page.tsx';
import { TextLink } from '../ui/link.tsx';
import { ObjectPage } from '../ui/object-page.tsx';
import { State } from '../ui/state.tsx';

export function GroupListPage() {
  const t = useText();
  const { name, state, text, created } = useColumns<Group>('/groups');
  return (
    <ListPage<Group>
      kind="group"
      title={t('nav.groups')}
      read={(query) => client.group.list({ query })}
      columns={[
        name,
        state((row) => row.status.state),
        text('members', t('group.members'), (row) => row.status.members.map(({ vm }) => vm).join(', ')),
        created,
      ]}
      empty={<Empty icon={<Boxes size={44} />} title={t('group.empty')} text={t('group.empty-text')} />}
    />
  );
}

const actions: readonly (readonly ['start' | 'stop' | 'restart', TextKey])[] = [
  ['start', 'vm.action.start'],
  ['stop', 'vm.action.stop'],
  ['restart', 'vm.action.restart'],
];

export function GroupPage() {
  const t = useText();
  const mayAct = useMay('vm.power');
  const act = useAction(({ item, action }: { item: Group; action: 'start' | 'stop' | 'restart' }) =>
    client.group[action]({ params: { group: item.id } }),
  );
  return (
    <ObjectPage<Group>
      kind="group"
      read={(ref) => client.group.get({ params: { group: ref } })}
      state={(item) => item.status.state}
      subtitle={(item) => item.spec.description || item.status.reason}
      facts={({ status }) =>
        status.members.map(
          (member) =>
            [
              `${member.order}`,
              <span key={member.id}>
                <TextLink href={`/vms/${member.id}`} mr={8}>
                  {member.vm}
                </TextLink>
                <State state={member.state} />
              </span>,
            ] as const,
        )
      }
      actions={(item) =>
        actions.map(([action, label]) => (
          <ActionButton
            key={action}
            reason={!mayAct ? t('snapshot.no-permission') : item.status.taskId === null ? null : t('vm.reason.busy')}
            onClick={() => act.mutate({ item, action })}
          >
            {t(label)}
          </ActionButton>
        ))
      }
      remove={{
        run: (item) => client.group.delete({ params: { group: item.id } }),
        permission: 'group.delete',
        listPath: '/groups',
      }}
    />
  );
}
