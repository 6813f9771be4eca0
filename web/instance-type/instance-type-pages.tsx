// Instance types: all of them, and one.
import { Ruler } from 'lucide-react';
import { type InstanceType } from '../../src/api/instance-type.ts';
import { client } from '../data/client.ts';
import { formatMib } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';
import { useColumns } from '../ui/columns.tsx';
import { Empty } from '../ui/empty.tsx';
import { ListPage } from '../ui/list-page.tsx';
import { ObjectPage } from '../ui/object-page.tsx';

export function InstanceTypeListPage() {
  const t = useText();
  const { name, text, created } = useColumns<InstanceType>('/instance-types');
  return (
    <ListPage<InstanceType>
      kind="instance-type"
      title={t('nav.instance-types')}
      read={(query) => client.instanceType.list({ query })}
      columns={[
        name,
        text('vcpus', t('vm.vcpus'), (row) => row.spec.cpu.count, { sort: 'spec.cpu.count', from: 0 }),
        text('memory', t('vm.memory'), (row) => formatMib(row.spec.memoryMib), { sort: 'spec.memoryMib', from: 0 }),
        text('used', t('column.used-by'), (row) => row.status.usedBy.join(', ')),
        created,
      ]}
      empty={<Empty icon={<Ruler size={44} />} title={t('instance-type.empty')} text={t('instance-type.empty-text')} />}
    />
  );
}

export function InstanceTypePage() {
  const t = useText();
  return (
    <ObjectPage<InstanceType>
      kind="instance-type"
      read={(ref) => client.instanceType.get({ params: { instanceType: ref } })}
      subtitle={(item) => item.spec.description}
      facts={({ spec, status }) => [
        [t('vm.vcpus'), spec.cpu.count],
        [t('vm.memory'), formatMib(spec.memoryMib)],
        [t('column.used-by'), status.usedBy.join(', ')],
      ]}
      remove={{
        run: (item) => client.instanceType.delete({ params: { instanceType: item.id } }),
        permission: 'instance-type.delete',
        usedBy: ({ status }) => status.usedBy.join(', '),
        listPath: '/instance-types',
      }}
    />
  );
}
