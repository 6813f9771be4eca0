// The spec of a VM as YAML: checked while it is typed, shown as a diff, applied. Where somebody else has changed it
// meanwhile, what they changed is shown; changes of different fields are put together.
import { Alert, Button, Checkbox, Code, Group, List, Stack, Text, Textarea } from '@mantine/core';
import { useDebouncedValue } from '@mantine/hooks';
import { useEffect, useState } from 'react';
import { loadPart } from '../data/part.ts';
import { LodgeError } from '../../src/api/errors.ts';
import { vmSpec } from '../../src/api/vm-spec.ts';
import { type Vm } from '../../src/api/vm.ts';
import { rebase } from '../../src/client/rebase.ts';
import { differences } from '../../src/lib/difference.ts';
import { formatPath, type Json } from '../../src/lib/field-path.ts';
import { client, useSignIn } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { useText } from '../i18n/language.ts';
import { ActionButton } from '../ui/action-button.tsx';
import { CopyIcon } from '../ui/copy.tsx';
import { Failure } from '../ui/failure.tsx';
import { Section } from '../ui/page.tsx';
import { reasonAgainst } from './vm-power.ts';
import { Loading } from '../ui/loading.tsx';

/** The part of the library that is used; it is loaded when the page is opened. */
interface Yaml {
  parse: (text: string) => unknown;
  stringify: (value: unknown, options: { lineWidth: number }) => string;
}

/** What can be edited: not what Lodge writes into it itself. */
function editable(vm: Vm): Json {
  const { inherited: _written, ...spec } = vm.spec;
  return { labels: vm.labels, spec: spec as unknown as Json };
}

interface Checked {
  document: Json | null;
  problems: string[];
}

function check(yaml: Yaml, text: string): Checked {
  try {
    const document = yaml.parse(text) as { labels?: unknown; spec?: unknown } | null;
    const result = vmSpec.safeParse(document?.spec);
    if (result.success) return { document: document as Json, problems: [] };
    return {
      document: null,
      problems: result.error.issues.slice(0, 20).map((issue) => `spec.${issue.path.join('.')}: ${issue.message}`),
    };
  } catch (failure) {
    return { document: null, problems: [failure instanceof Error ? failure.message : String(failure)] };
  }
}

export function SpecTab({ vm }: { vm: Vm }) {
  const [yaml, setYaml] = useState<Yaml | null>(null);
  const [failure, setFailure] = useState<unknown>(null);
  useEffect(() => {
    loadPart(() => import('yaml')).then(({ parse, stringify }) => setYaml({ parse, stringify }), setFailure);
  }, []);
  if (failure !== null) return <Failure failure={failure} />;
  if (yaml === null) return <Loading />;
  return <Editor vm={vm} yaml={yaml} />;
}

function Editor({ vm, yaml }: { vm: Vm; yaml: Yaml }) {
  const t = useText();
  const { session } = useSignIn();
  // What the text began with: changes of others are told against it.
  const [base, setBase] = useState(vm);
  const [text, setText] = useState(() => yaml.stringify(editable(vm), { lineWidth: 0 }));
  const [settled] = useDebouncedValue(text, 250);
  const [isForced, setForced] = useState(false);
  const { document, problems } = check(yaml, settled);
  const original = editable(base);
  const changes = document === null ? [] : differences(original, document);
  const isStale = vm.revision !== base.revision;
  const theirs = isStale ? differences(original, editable(vm)) : [];
  const merged = isStale && document !== null ? rebase(original, document, editable(vm)) : null;

  const begin = (from: Vm): void => {
    setBase(from);
    setText(yaml.stringify(editable(from), { lineWidth: 0 }));
  };
  const apply = useAction(
    (whole: Json) => {
      const { labels, spec } = whole as unknown as Pick<Vm, 'labels' | 'spec'>;
      return client.vm.update({
        params: { vm: vm.id },
        query: { force: isForced },
        body: { revision: vm.revision, labels, spec },
      });
    },
    { onDone: begin, isShownElsewhere: true },
  );
  // Without anything typed, what is shown follows the VM.
  useEffect(() => {
    if (isStale && text === yaml.stringify(editable(base), { lineWidth: 0 })) begin(vm);
  }, [vm.revision]);

  const toApply = isStale ? (merged !== null && 'document' in merged ? merged.document : null) : document;
  const reason =
    reasonAgainst(vm, 'update', session?.role ?? null) ??
    (problems.length > 0 ? t('spec.invalid') : changes.length === 0 ? t('hardware.nothing-changed') : null) ??
    (toApply === null ? t('spec.conflict') : null);
  return (
    <Section
      title={t('spec.title')}
      actions={
        <>
          <CopyIcon text={text} />
          <Button variant="default" size="xs" onClick={() => begin(vm)}>
            {t('common.undo')}
          </Button>
        </>
      }
    >
      <Stack gap="md">
        {isStale && (
          <Alert color="yellow" title={t('spec.stale')}>
            <DiffList changes={theirs} />
            {merged !== null && 'conflicts' in merged ? (
              <Text fz="sm" mt="xs">
                {t('spec.both', { fields: merged.conflicts.join(', ') })}
              </Text>
            ) : (
              <Text fz="sm" mt="xs">
                {t('spec.merged')}
              </Text>
            )}
          </Alert>
        )}
        {apply.error !== null && !(apply.error instanceof LodgeError && apply.error.code === 'revision_conflict') && (
          <Failure failure={apply.error} />
        )}
        <Textarea
          aria-label={t('spec.title')}
          value={text}
          onChange={(event) => setText(event.currentTarget.value)}
          autosize
          minRows={14}
          maxRows={32}
          spellCheck={false}
          styles={{ input: { fontFamily: 'var(--mantine-font-family-monospace)', fontSize: 13 } }}
          error={problems.length > 0}
        />
        <div role="status" aria-live="polite">
          {problems.length > 0 && (
            <Alert color="red" title={t('spec.invalid')}>
              <List fz="sm">
                {problems.map((problem) => (
                  <List.Item key={problem} className="break">
                    {problem}
                  </List.Item>
                ))}
              </List>
            </Alert>
          )}
          {changes.length > 0 && (
            <Stack gap={4}>
              <Text fw={600} fz="sm">
                {t('spec.changes')}
              </Text>
              <DiffList changes={changes} />
            </Stack>
          )}
        </div>
        <Group>
          <ActionButton
            variant="filled"
            reason={reason}
            loading={apply.isPending}
            onClick={() => {
              if (toApply !== null) apply.mutate(toApply);
            }}
          >
            {t('common.apply')}
          </ActionButton>
          <Checkbox
            size="sm"
            label={t('spec.force')}
            checked={isForced}
            onChange={(event) => setForced(event.currentTarget.checked)}
          />
        </Group>
      </Stack>
    </Section>
  );
}

function DiffList({ changes }: { changes: ReturnType<typeof differences> }) {
  return (
    <List fz="sm" listStyleType="none">
      {changes.map(({ path, before, after }) => (
        <List.Item key={formatPath(path)} className="break">
          <Code>{formatPath(path)}</Code> {before === undefined ? '' : <del>{JSON.stringify(before)}</del>}
          {before !== undefined && after !== undefined && ' → '}
          {after === undefined ? '' : <ins>{JSON.stringify(after)}</ins>}
        </List.Item>
      ))}
    </List>
  );
}
