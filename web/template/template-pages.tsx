// Templates: all of them, and one with its versions.
import { LayoutTemplate } from 'lucide-react';
import { type Template } from '../../src/api/template.ts';
import { client } from '../data/client.ts';
import { useText } from '../i18n/language.ts';
import { useColumns } from '../ui/columns.tsx';
import { Empty } from '../ui/empty.tsx';
import { ListPage } from '../ui/list-page.tsx';
import { ObjectPage } from '../ui/object-page.tsx';
import { Ago } from '../ui/time.tsx';

export function TemplateListPage() {
  const t = useText();
  const { name, state, text, created } = useColumns<Template>('/templates');
  return (
    <ListPage<Template>
      kind="template"
      title={t('nav.templates')}
      read={(query) => client.template.list({ query })}
      columns={[
        name,
        state((row) => row.status.state),
        text('versions', t('template.versions'), (row) => row.status.versions.length),
        text('description', t('column.description'), (row) => row.spec.description, { width: 'minmax(120px, 3fr)' }),
        created,
      ]}
      empty={<Empty icon={<LayoutTemplate size={44} />} title={t('template.empty')} text={t('template.empty-text')} />}
    />
  );
}

export function TemplatePage() {
  const t = useText();
  return (
    <ObjectPage<Template>
      kind="template"
      read={(ref) => client.template.get({ params: { template: ref } })}
      state={(item) => item.status.state}
      subtitle={(item) => item.spec.description || item.status.reason}
      facts={({ status }) =>
        status.versions.map(
          (version) =>
            [
              t('template.version', { number: version.version }),
              <span key={version.version}>
                {version.vm} · <Ago at={version.createdAt} />
              </span>,
            ] as const,
        )
      }
      remove={{
        run: (item) => client.template.delete({ params: { template: item.id } }),
        permission: 'template.delete',
        listPath: '/templates',
      }}
    />
  );
}
