// Volumes: all of them, and one.
import { HardDrive } from 'lucide-react';
import { type Volume } from '../../src/api/volume.ts';
import { client } from '../data/client.ts';
import { formatBytes, formatMib } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';
import { useColumns } from '../ui/columns.tsx';
import { Empty } from '../ui/empty.tsx';
import { ListPage } from '../ui/list-page.tsx';
import { TextLink } from '../ui/link.tsx';
import { ObjectPage } from '../ui/object-page.tsx';

const size = ({ status }: Volume): string => (status.virtualSizeMib === null ? '–' : formatMib(status.virtualSizeMib));
const taken = ({ status }: Volume): string =>
  status.allocatedBytes === null ? '–' : formatBytes(status.allocatedBytes);

export function VolumeListPage() {
  const t = useText();
  const { name, state, text, created } = useColumns<Volume>('/volumes');
  return (
    <ListPage<Volume>
      kind="volume"
      title={t('nav.volumes')}
      read={(query) => client.volume.list({ query })}
      columns={[
        name,
        state((row) => row.status.state),
        text('size', t('column.size'), size, { sort: 'status.virtualSizeMib' }),
        text('taken', t('object.taken'), taken, { sort: 'status.allocatedBytes', from: 800 }),
        text('used', t('column.used-by'), (row) => row.status.usedBy?.name ?? '–'),
        created,
      ]}
      empty={<Empty icon={<HardDrive size={44} />} title={t('volume.empty')} text={t('volume.empty-text')} />}
    />
  );
}

export function VolumePage() {
  const t = useText();
  return (
    <ObjectPage<Volume>
      kind="volume"
      read={(ref) => client.volume.get({ params: { volume: ref } })}
      state={(item) => item.status.state}
      subtitle={(item) => item.status.reason}
      facts={(item) => [
        [t('column.size'), size(item)],
        [t('object.taken'), taken(item)],
        [
          t('column.used-by'),
          item.status.usedBy === null ? null : (
            <TextLink key="vm" href={`/vms/${item.status.usedBy.id}`}>
              {item.status.usedBy.name}
            </TextLink>
          ),
        ],
      ]}
      remove={{
        run: (item) => client.volume.delete({ params: { volume: item.id } }),
        permission: 'volume.delete',
        usedBy: ({ status }) => status.usedBy?.name ?? '',
        listPath: '/volumes',
      }}
    />
  );
}
