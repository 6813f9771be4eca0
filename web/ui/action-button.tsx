// A button that is never hidden: where it can't be used now, it says why, to the eye and to the screen reader.
import { Button, Menu, Tooltip, type ButtonProps } from '@mantine/core';
import { type ReactNode } from 'react';

interface ActionProps {
  /** Why it can't be used now; null: it can. */
  reason: string | null;
  onClick: () => void;
  children: ReactNode;
}

export function ActionButton({ reason, onClick, children, ...rest }: ButtonProps & ActionProps) {
  const isOff = reason !== null;
  const button = (
    <Button
      size="sm"
      variant="default"
      {...rest}
      {...(isOff ? { 'data-disabled': true } : {})}
      aria-disabled={isOff}
      onClick={isOff ? (event) => event.preventDefault() : onClick}
    >
      {children}
    </Button>
  );
  return isOff ? (
    <Tooltip label={reason} events={{ hover: true, focus: true, touch: true }}>
      {button}
    </Tooltip>
  ) : (
    button
  );
}

/** The same in a menu; the reason stands below the words. */
export function ActionItem({
  reason,
  onClick,
  icon,
  color,
  children,
}: ActionProps & { icon?: ReactNode; color?: string | undefined }) {
  const isOff = reason !== null;
  return (
    <Menu.Item
      leftSection={icon}
      {...(color === undefined ? {} : { color })}
      {...(isOff ? { 'data-disabled': true } : {})}
      aria-disabled={isOff}
      closeMenuOnClick={!isOff}
      onClick={isOff ? (event) => event.preventDefault() : onClick}
    >
      {children}
      {isOff && <span style={{ display: 'block', fontSize: 12, maxWidth: 260, whiteSpace: 'normal' }}>{reason}</span>}
    </Menu.Item>
  );
}
