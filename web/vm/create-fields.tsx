// The fields of the page for creating VMs.
import {
  Accordion,
  Checkbox,
  MultiSelect,
  NumberInput,
  Select,
  SimpleGrid,
  Stack,
  Textarea,
  TextInput,
} from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { guestOs, hardwarePreset } from '../../src/api/vm-hardware.ts';
import { maxMemoryMib, maxVcpus, minMemoryMib } from '../../src/api/vm-spec.ts';
import { client } from '../data/client.ts';
import { formatMib } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';
import { Section } from '../ui/page.tsx';
import { type CreateDraft } from './create-draft.ts';

interface FieldsProps {
  draft: CreateDraft;
  onChange: (next: Partial<CreateDraft>) => void;
}

/** Most VMs that are made at once here. */
const mostAtOnce = 50;

/** What there is to choose from. */
function useChoices() {
  const query = { limit: 500 } as const;
  const images = useQuery({
    queryKey: ['image', 'choice'],
    queryFn: async () => (await client.image.list({ query })).items,
  });
  const networks = useQuery({
    queryKey: ['network', 'choice'],
    queryFn: async () => (await client.network.list({ query })).items,
  });
  const types = useQuery({
    queryKey: ['instance-type', 'choice'],
    queryFn: async () => (await client.instanceType.list({ query })).items,
  });
  const profiles = useQuery({
    queryKey: ['profile', 'choice'],
    queryFn: async () => (await client.profile.list({ query })).items,
  });
  const inDefault = <Item extends { project: string }>(items: readonly Item[] | undefined): Item[] =>
    (items ?? []).filter(({ project }) => project === 'default');
  return {
    images: inDefault(images.data),
    networks: inDefault(networks.data),
    types: inDefault(types.data),
    profiles: inDefault(profiles.data),
  };
}

export function CreateFields({ draft, onChange }: FieldsProps) {
  const t = useText();
  const choices = useChoices();
  const clear = { 'aria-label': t('common.clear') };
  return (
    <Stack gap="md">
      <Section>
        <SimpleGrid cols={{ base: 1, xs: 2 }}>
          <TextInput
            label={t('column.name')}
            description={t('create.name-hint')}
            value={draft.name}
            onChange={(event) => onChange({ name: event.currentTarget.value.trim() })}
            autoFocus
            required
            maxLength={63}
            spellCheck={false}
          />
          <NumberInput
            label={t('vm.copy.count')}
            description={t('create.count-hint')}
            min={1}
            max={mostAtOnce}
            clampBehavior="strict"
            value={draft.count}
            onChange={(value) => onChange({ count: Number(value) || 1 })}
          />
        </SimpleGrid>
        <Select
          mt="md"
          label={t('vm.image')}
          description={t('create.image-hint')}
          placeholder={t('create.no-image')}
          searchable
          clearable
          clearButtonProps={clear}
          data={choices.images.map((image) => ({
            value: image.name,
            label: image.spec.description === '' ? image.name : `${image.name} · ${image.spec.description}`,
            disabled: image.status.state !== 'ready',
          }))}
          value={draft.image}
          onChange={(image) => onChange({ image })}
          nothingFoundMessage={t('table.nothing')}
        />
      </Section>
      <Section title={t('create.size')}>
        <SimpleGrid cols={{ base: 1, xs: 2 }}>
          <Select
            label={t('create.type')}
            placeholder={t('create.own-size')}
            clearable
            clearButtonProps={clear}
            data={choices.types.map(({ name, spec }) => ({
              value: name,
              label: `${name} · ${spec.cpu.count} vCPU · ${formatMib(spec.memoryMib)}`,
            }))}
            value={draft.instanceType}
            onChange={(instanceType) => onChange({ instanceType })}
          />
          <NumberInput
            label={`${t('create.disk')} (MiB)`}
            description={draft.diskMib === null ? t('create.disk-default') : formatMib(draft.diskMib)}
            min={1}
            step={1024}
            value={draft.diskMib ?? ''}
            onChange={(value) => onChange({ diskMib: value === '' ? null : Number(value) })}
          />
          <NumberInput
            label={t('vm.vcpus')}
            min={1}
            max={maxVcpus}
            disabled={draft.instanceType !== null}
            value={draft.vcpus}
            onChange={(value) => onChange({ vcpus: Number(value) || 1 })}
          />
          <NumberInput
            label={`${t('vm.memory')} (MiB)`}
            min={minMemoryMib}
            max={maxMemoryMib}
            step={256}
            disabled={draft.instanceType !== null}
            value={draft.memoryMib}
            onChange={(value) => onChange({ memoryMib: Number(value) || minMemoryMib })}
          />
        </SimpleGrid>
      </Section>
      <Section title={t('create.connection')}>
        <Select
          label={t('nics.network')}
          placeholder={t('create.no-network')}
          clearable
          clearButtonProps={clear}
          data={[...new Set(['default', ...choices.networks.map(({ name }) => name)])]}
          value={draft.network}
          onChange={(network) => onChange({ network })}
        />
        <Checkbox
          mt="md"
          label={t('create.start')}
          checked={draft.isStarted}
          onChange={(event) => onChange({ isStarted: event.currentTarget.checked })}
        />
      </Section>
      <Accordion variant="separated" radius="lg" chevronPosition="left">
        <Accordion.Item value="first-boot">
          <Accordion.Control>{t('create.first-boot')}</Accordion.Control>
          <Accordion.Panel>
            <Stack>
              <Textarea
                label={t('create.ssh-keys')}
                description={t('create.ssh-keys-hint')}
                autosize
                minRows={2}
                maxRows={8}
                spellCheck={false}
                value={draft.sshKeys}
                onChange={(event) => onChange({ sshKeys: event.currentTarget.value })}
              />
              <Textarea
                label={t('create.user-data')}
                description={t('create.user-data-hint')}
                placeholder="#cloud-config"
                autosize
                minRows={4}
                maxRows={20}
                spellCheck={false}
                styles={{ input: { fontFamily: 'var(--mantine-font-family-monospace)', fontSize: 13 } }}
                value={draft.userData}
                onChange={(event) => onChange({ userData: event.currentTarget.value })}
              />
            </Stack>
          </Accordion.Panel>
        </Accordion.Item>
        <Accordion.Item value="more">
          <Accordion.Control>{t('create.more')}</Accordion.Control>
          <Accordion.Panel>
            <SimpleGrid cols={{ base: 1, xs: 2 }}>
              <Select
                label={t('create.os')}
                placeholder={t('create.os-default')}
                clearable
                clearButtonProps={clear}
                data={[...guestOs.options]}
                value={draft.os}
                onChange={(os) => onChange({ os })}
              />
              <Select
                label={t('create.hardware')}
                description={t('create.hardware-hint')}
                placeholder={t('create.hardware-default')}
                clearable
                clearButtonProps={clear}
                data={[...hardwarePreset.options]}
                value={draft.hardware}
                onChange={(hardware) => onChange({ hardware })}
              />
              <MultiSelect
                label={t('nav.profiles')}
                data={choices.profiles.map(({ name }) => name)}
                value={draft.profiles}
                onChange={(profiles) => onChange({ profiles })}
                clearable
                clearButtonProps={clear}
              />
              <TextInput
                label={t('column.labels')}
                placeholder="app=web,tier=front"
                value={draft.labels}
                onChange={(event) => onChange({ labels: event.currentTarget.value })}
              />
              <TextInput
                label={t('column.description')}
                maxLength={1000}
                value={draft.description}
                onChange={(event) => onChange({ description: event.currentTarget.value })}
              />
              <Checkbox
                mt="lg"
                label={t('create.autostart')}
                checked={draft.autostart}
                onChange={(event) => onChange({ autostart: event.currentTarget.checked })}
              />
            </SimpleGrid>
          </Accordion.Panel>
        </Accordion.Item>
      </Accordion>
    </Stack>
  );
}
