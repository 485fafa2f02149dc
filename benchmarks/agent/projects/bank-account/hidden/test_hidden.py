import unittest

from account import Account, InsufficientFunds


class HiddenTest(unittest.TestCase):
    def test_limit_itself_is_allowed(self):
        account = Account("x", balance=10, overdraft=5)
        account.withdraw(15)
        self.assertEqual(account.balance, -5)

    def test_no_overdraft(self):
        with self.assertRaises(InsufficientFunds):
            Account("x", balance=10).withdraw(11)
