// Images: all of them, building one, and one.
import { Button, Menu } from '@mantine/core';
import { ChevronDown, Disc3 } from 'lucide-react';
import { imageRecipe, type Image, type ImageRecipe } from '../../src/api/image.ts';
import { client, useMay } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { formatBytes, formatMib } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';
import { useColumns } from '../ui/columns.tsx';
import { Empty } from '../ui/empty.tsx';
import { ListPage } from '../ui/list-page.tsx';
import { ObjectPage } from '../ui/object-page.tsx';

const bytes = ({ status }: Image): string => (status.sizeBytes === null ? '–' : formatBytes(status.sizeBytes));

export function ImageListPage() {
  const t = useText();
  const { name, state, text, created } = useColumns<Image>('/images');
  return (
    <ListPage<Image>
      kind="image"
      title={t('nav.images')}
      read={(query) => client.image.list({ query })}
      actions={<BuildMenu />}
      columns={[
        name,
        state((row) => row.status.state),
        text('kind', t('image.kind'), (row) => row.status.kind ?? '–'),
        text('os', t('vm.guest-os'), (row) => row.spec.os, { sort: 'spec.os' }),
        text('size', t('object.taken'), bytes, { from: 800 }),
        text('firmware', t('vm.firmware'), (row) => row.status.firmware.join(', '), { from: 1000 }),
        created,
      ]}
      empty={
        <Empty
          icon={<Disc3 size={44} />}
          title={t('image.empty')}
          text={t('image.empty-text')}
          action={<BuildMenu />}
        />
      }
    />
  );
}

/** Images that Lodge builds by itself. */
function BuildMenu() {
  const t = useText();
  const mayCreate = useMay('image.create');
  const build = useAction((recipe: ImageRecipe) =>
    client.image.create({ body: { name: recipe, spec: { source: { type: 'build', recipe } } } }),
  );
  if (!mayCreate) return null;
  return (
    <Menu position="bottom-end">
      <Menu.Target>
        <Button rightSection={<ChevronDown size={14} />} loading={build.isPending}>
          {t('image.build')}
        </Button>
      </Menu.Target>
      <Menu.Dropdown>
        {imageRecipe.options.map((recipe) => (
          <Menu.Item key={recipe} onClick={() => build.mutate(recipe)}>
            {recipe}
          </Menu.Item>
        ))}
      </Menu.Dropdown>
    </Menu>
  );
}

export function ImagePage() {
  const t = useText();
  return (
    <ObjectPage<Image>
      kind="image"
      read={(ref) => client.image.get({ params: { image: ref } })}
      state={(item) => item.status.state}
      subtitle={(item) => item.spec.description || item.status.reason}
      facts={({ status, spec }) => [
        [t('image.kind'), status.kind],
        [t('vm.guest-os'), spec.os],
        [t('vm.firmware'), status.firmware.join(', ')],
        [t('column.size'), status.virtualSizeMib === null ? null : formatMib(status.virtualSizeMib)],
        [t('object.taken'), status.sizeBytes === null ? null : formatBytes(status.sizeBytes)],
        [t('settings.version'), status.version],
        [
          t('image.checksum'),
          <span key="checksum" className="mono">
            {status.checksum}
          </span>,
        ],
        [t('column.used-by'), status.usedBy.join(', ')],
      ]}
      remove={{
        run: (item) => client.image.delete({ params: { image: item.id } }),
        permission: 'image.delete',
        usedBy: ({ status }) => status.usedBy.join(', '),
        listPath: '/images',
      }}
    />
  );
}
