// What went wrong, as people are told: what failed, what to do next, the code, and where the docs speak of it.
import { Alert, Anchor, Button, Code, Group, List, Text } from '@mantine/core';
import { CircleAlert } from 'lucide-react';
import { LodgeError } from '../../src/api/errors.ts';
import { useText } from '../i18n/language.ts';

interface FailureProps {
  failure: unknown;
  onRetry?: (() => void) | undefined;
  onClose?: (() => void) | undefined;
}

/** Anything that was thrown, as the one error there is. */
export function asLodgeError(failure: unknown): LodgeError {
  if (failure instanceof LodgeError) return failure;
  return new LodgeError('internal', failure instanceof Error ? failure.message : String(failure));
}

export function Failure({ failure, onRetry, onClose }: FailureProps) {
  const t = useText();
  const error = asLodgeError(failure);
  return (
    <Alert
      role="alert"
      color="red"
      variant="light"
      icon={<CircleAlert size={18} />}
      title={<span className="break">{error.message}</span>}
      withCloseButton={onClose !== undefined}
      closeButtonLabel={t('common.close')}
      {...(onClose === undefined ? {} : { onClose })}
    >
      <Text fz="sm" className="break">
        {error.hint}
      </Text>
      {error.fields !== undefined && error.fields.length > 1 && (
        <List fz="sm" mt="xs">
          {error.fields.map((field) => (
            <List.Item key={field.field} className="break">
              <b>{field.field}</b>: {field.message}
            </List.Item>
          ))}
        </List>
      )}
      <Group gap="sm" mt="xs" fz="xs">
        <Code>{error.code}</Code>
        {error.requestId !== undefined && (
          <Text fz="xs" c="dimmed">
            {t('failure.request', { id: error.requestId })}
          </Text>
        )}
        <Anchor href={`/docs#error-${error.code}`} target="_blank" fz="xs" underline="always" c="inherit">
          {t('failure.docs')}
        </Anchor>
        {onRetry !== undefined && (
          <Button size="compact-xs" variant="default" onClick={onRetry}>
            {t('common.retry')}
          </Button>
        )}
      </Group>
    </Alert>
  );
}
