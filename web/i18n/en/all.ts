// All texts of the language, by their keys.
import { activity } from './activity.ts';
import { frame } from './frame.ts';
import { vm } from './vm.ts';

export const en = { ...frame, ...vm, ...activity } as const;
