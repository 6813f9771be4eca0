// A dialog with fields to fill in, one button that does it and one that doesn't. What goes wrong is said in it, and what
// was typed stays.
import { Button, Group, Modal, Stack } from '@mantine/core';
import { type ReactNode } from 'react';
import { useText } from '../i18n/language.ts';
import { Failure } from './failure.tsx';

interface FormDialogProps {
  title: string;
  /** Above what went wrong. */
  intro?: ReactNode;
  children: ReactNode;
  /** On the button that does it. */
  submit: string;
  isReady?: boolean;
  action: { mutate: (given: undefined) => void; error: Error | null; isPending: boolean };
  onClose: () => void;
}

export function FormDialog({ title, intro, children, submit, isReady = true, action, onClose }: FormDialogProps) {
  const t = useText();
  return (
    <Modal opened onClose={onClose} title={title} closeButtonProps={{ 'aria-label': t('common.close') }}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          action.mutate(undefined);
        }}
      >
        <Stack>
          {intro}
          {action.error !== null && <Failure failure={action.error} />}
          {children}
          <Group justify="flex-end">
            <Button variant="default" onClick={onClose}>
              {t('common.cancel')}
            </Button>
            <Button type="submit" disabled={!isReady} loading={action.isPending}>
              {submit}
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
