// Asks to sign in again, over what was open when the session ended: nothing that was typed is lost.
import { Modal, Text } from '@mantine/core';
import { useText } from '../i18n/language.ts';
import { SignInForm } from './sign-in-page.tsx';

export function SignInAgain() {
  const t = useText();
  return (
    <Modal
      opened
      onClose={() => undefined}
      withCloseButton={false}
      closeOnEscape={false}
      closeOnClickOutside={false}
      title={t('sign-in.again')}
    >
      <Text fz="sm" c="dimmed" mb="md">
        {t('sign-in.again-hint')}
      </Text>
      <SignInForm />
    </Modal>
  );
}
