// Profiles: all of them, and one with who uses it.
import { SlidersHorizontal } from 'lucide-react';
import { type Profile } from '../../src/api/profile.ts';
import { client, useMay } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { useText } from '../i18n/language.ts';
import { ActionButton } from '../ui/action-button.tsx';
import { useColumns } from '../ui/columns.tsx';
import { Empty } from '../ui/empty.tsx';
import { ListPage } from '../ui/list-page.tsx';
import { ObjectPage } from '../ui/object-page.tsx';

export function ProfileListPage() {
  const t = useText();
  const { name, text, created } = useColumns<Profile>('/profiles');
  return (
    <ListPage<Profile>
      kind="profile"
      title={t('nav.profiles')}
      read={(query) => client.profile.list({ query })}
      columns={[
        name,
        text('description', t('column.description'), (row) => row.spec.description, { width: 'minmax(120px, 3fr)' }),
        text('used', t('column.used-by'), (row) => row.status.usedBy.join(', ')),
        text('outdated', t('profile.outdated'), (row) => row.status.outdated.join(', '), { from: 900 }),
        created,
      ]}
      empty={<Empty icon={<SlidersHorizontal size={44} />} title={t('profile.empty')} text={t('profile.empty-text')} />}
    />
  );
}

export function ProfilePage() {
  const t = useText();
  const mayApply = useMay('vm.update');
  const apply = useAction((item: Profile) => client.profile.apply({ params: { profile: item.id }, body: {} }));
  return (
    <ObjectPage<Profile>
      kind="profile"
      read={(ref) => client.profile.get({ params: { profile: ref } })}
      subtitle={(item) => item.spec.description}
      facts={({ status }) => [
        [t('column.used-by'), status.usedBy.join(', ') || '–'],
        [t('profile.outdated'), status.outdated.join(', ')],
      ]}
      actions={(item) => (
        <ActionButton
          reason={
            !mayApply ? t('snapshot.no-permission') : item.status.outdated.length === 0 ? t('profile.current') : null
          }
          onClick={() => apply.mutate(item)}
        >
          {t('profile.apply')}
        </ActionButton>
      )}
      remove={{
        run: (item) => client.profile.delete({ params: { profile: item.id } }),
        permission: 'profile.delete',
        usedBy: ({ status }) => status.usedBy.join(', '),
        listPath: '/profiles',
      }}
    />
  );
}
